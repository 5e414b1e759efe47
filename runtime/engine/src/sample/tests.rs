use super::*;

const DRAW: Draw = Draw { seed: 11, position: 0 };

fn at(position: u64) -> Draw {
    Draw { seed: 11, position }
}

fn token(logits: &[f32], params: &SamplingParams, draw: Draw) -> TokenId {
    sample(logits, params, None, None, draw).unwrap().token_id
}

fn warm() -> SamplingParams {
    SamplingParams { temperature: 1.0, ..SamplingParams::default() }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit).exp() / total).collect()
}

/// Chi-square of 20000 draws against `expected`, over tokens that can occur; tokens that cannot must not.
fn check_distribution(logits: &[f32], params: &SamplingParams, expected: &[f64]) {
    let num_draws = 20_000;
    let mut counts = vec![0_u32; logits.len()];
    for position in 0..num_draws {
        counts[token(logits, params, at(position)) as usize] += 1;
    }
    let mut chi_square = 0.0;
    for (index, probability) in expected.iter().enumerate() {
        let mean = probability * num_draws as f64;
        if mean == 0.0 {
            assert_eq!(counts[index], 0, "token {index} cannot occur");
        } else {
            chi_square += (f64::from(counts[index]) - mean).powi(2) / mean;
        }
    }
    // At most 9 degrees of freedom: above 34 is less likely than one in 10^4, and the draws are fixed.
    assert!(chi_square < 34.0, "chi-square {chi_square}, counts {counts:?}");
}

fn renormalised(probabilities: &[f64], keep: impl Fn(usize) -> bool) -> Vec<f64> {
    let kept = |index: usize| if keep(index) { probabilities[index] } else { 0.0 };
    let total: f64 = (0..probabilities.len()).map(kept).sum();
    (0..probabilities.len()).map(|index| kept(index) / total).collect()
}

const LOGITS: [f32; 10] = [0.1, 2.0, -1.0, 1.5, 0.0, -2.0, 1.0, 0.5, -0.5, 1.2];

#[test]
fn greedy_takes_the_likeliest_and_the_lowest_id_of_equals() {
    let greedy = SamplingParams::default();
    assert_eq!(token(&[0.0, 3.0, 3.0, 1.0], &greedy, DRAW), 1);
    assert_eq!(token(&[f32::NAN, -5.0, f32::NEG_INFINITY], &greedy, DRAW), 1);
    assert_eq!(token(&[f32::INFINITY, 1.0, f32::INFINITY], &warm(), DRAW), 0);
}

#[test]
fn logits_that_are_not_numbers_are_never_chosen() {
    for position in 0..200 {
        assert_eq!(token(&[f32::NAN, 0.0, f32::NEG_INFINITY, f32::NAN], &warm(), at(position)), 1);
    }
    for nonsense in [f32::NAN, f32::NEG_INFINITY] {
        let error = sample(&[nonsense; 3], &warm(), None, None, DRAW).unwrap_err();
        assert_eq!(error, SampleError::NoFiniteLogit { vocab_size: 3 });
    }
    let logprobs = logprobs(&[f32::NAN, 0.0, 0.0], 1, 5);
    assert_eq!(logprobs.top.len(), 2);
    assert!((logprobs.chosen + 2.0_f32.ln()).abs() < 1e-6);
}

#[test]
fn temperature_one_draws_from_the_models_distribution() {
    check_distribution(&LOGITS, &warm(), &softmax(&LOGITS));
}

#[test]
fn temperature_divides_the_logits() {
    let params = SamplingParams { temperature: 2.0, ..warm() };
    check_distribution(&LOGITS, &params, &softmax(&LOGITS.map(|logit| logit / 2.0)));
}

#[test]
fn top_k_keeps_the_k_likeliest() {
    let params = SamplingParams { top_k: Some(3), ..warm() };
    check_distribution(&LOGITS, &params, &renormalised(&softmax(&LOGITS), |index| [1, 3, 9].contains(&index)));
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_p() {
    let probabilities = softmax(&LOGITS);
    let two = probabilities[1] + probabilities[3];
    let just_two = SamplingParams { top_p: (two - 1e-4) as f32, ..warm() };
    check_distribution(&LOGITS, &just_two, &renormalised(&probabilities, |index| [1, 3].contains(&index)));
    let three = SamplingParams { top_p: (two + 1e-4) as f32, ..warm() };
    check_distribution(&LOGITS, &three, &renormalised(&probabilities, |index| [1, 3, 9].contains(&index)));
}

#[test]
fn top_p_of_a_flat_distribution_is_exact_beyond_the_sorted_head() {
    let logits = vec![0.0_f32; 2000];
    let params = SamplingParams { top_p: 0.5, ..warm() };
    let largest = (0..300).map(|position| token(&logits, &params, at(position))).max().unwrap();
    assert!((950..1000).contains(&largest), "{largest}");
}

#[test]
fn min_p_drops_tokens_far_below_the_likeliest() {
    let params = SamplingParams { min_p: 0.4, ..warm() };
    // exp(1.2 - 2.0) = 0.449, exp(1.0 - 2.0) = 0.368
    check_distribution(&LOGITS, &params, &renormalised(&softmax(&LOGITS), |index| [1, 3, 9].contains(&index)));
}

#[test]
fn logit_bias_forbids_and_forces() {
    let forbid = SamplingParams { logit_bias: vec![(1, -100.0)], ..SamplingParams::default() };
    assert_eq!(token(&LOGITS, &forbid, DRAW), 3);
    let force = SamplingParams { logit_bias: vec![(5, 100.0), (4_000_000, 1.0)], ..SamplingParams::default() };
    assert_eq!(token(&LOGITS, &force, DRAW), 5);
}

#[test]
fn presence_and_frequency_penalties_count_generated_tokens_only() {
    let mut counts = TokenCounts::new(&[1]);
    let presence = SamplingParams { presence_penalty: 0.6, ..SamplingParams::default() };
    let chosen = |params: &SamplingParams, counts: &TokenCounts| {
        sample(&[1.5, 2.0], params, Some(counts), None, DRAW).unwrap().token_id
    };
    assert_eq!(chosen(&presence, &counts), 1, "the prompt does not count");
    counts.add_generated(1);
    assert_eq!(chosen(&presence, &counts), 0);
    let frequency = SamplingParams { frequency_penalty: 0.3, ..SamplingParams::default() };
    assert_eq!(chosen(&frequency, &counts), 1);
    counts.add_generated(1);
    assert_eq!(chosen(&frequency, &counts), 0);
}

#[test]
fn repetition_penalty_lowers_positive_and_negative_logits_of_prompt_and_output() {
    let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
    let counts = TokenCounts::new(&[0]);
    let chosen = |logits: &[f32]| sample(logits, &params, Some(&counts), None, DRAW).unwrap().token_id;
    assert_eq!(chosen(&[1.9, 1.0]), 1);
    assert_eq!(chosen(&[-1.0, -1.5]), 1);
}

#[test]
fn same_seed_and_position_give_the_same_token() {
    let stream =
        |seed| -> Vec<TokenId> { (0..50).map(|position| token(&LOGITS, &warm(), Draw { seed, position })).collect() };
    assert_eq!(stream(1), stream(1));
    assert_ne!(stream(1), stream(2));
}

#[test]
fn logprobs_are_the_models_own() {
    let params = SamplingParams { logprobs: Some(2), temperature: 0.5, logit_bias: vec![(0, 50.0)], ..warm() };
    let sampled = sample(&LOGITS, &params, None, None, DRAW).unwrap();
    assert_eq!(sampled.token_id, 0);
    let logprobs = sampled.logprobs.unwrap();
    let expected = softmax(&LOGITS);
    assert!((f64::from(logprobs.chosen) - expected[0].ln()).abs() < 1e-5);
    assert_eq!(logprobs.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3]);
    assert!((f64::from(logprobs.top[0].1) - expected[1].ln()).abs() < 1e-5);
}

#[test]
fn no_logprobs_are_computed_unless_asked_for() {
    assert_eq!(sample(&LOGITS, &warm(), None, None, DRAW).unwrap().logprobs, None);
    let alone = SamplingParams { logprobs: Some(0), ..warm() };
    assert!(sample(&LOGITS, &alone, None, None, DRAW).unwrap().logprobs.unwrap().top.is_empty());
}

#[test]
fn a_mask_limits_the_choice_before_everything_else() {
    let mask = TokenMask::new(vec![0b10_0100_0000_u32 | 1]);
    let allowed = |index: usize| [0, 6, 9].contains(&index);
    let expected = renormalised(&softmax(&LOGITS), allowed);
    let mut counts = [0_u32; 10];
    for position in 0..20_000 {
        let sampled = sample(&LOGITS, &warm(), None, Some(&mask), at(position)).unwrap();
        counts[sampled.token_id as usize] += 1;
    }
    for (index, probability) in expected.iter().enumerate() {
        assert!((f64::from(counts[index]) / 20_000.0 - probability).abs() < 0.015, "{index}: {counts:?}");
        assert!(allowed(index) || counts[index] == 0, "{index}: {counts:?}");
    }
    // A bias or a small top-k cannot bring back what is not allowed.
    let pushed = SamplingParams { logit_bias: vec![(1, 100.0)], top_k: Some(1), logprobs: Some(1), ..warm() };
    let sampled = sample(&LOGITS, &pushed, None, Some(&mask), DRAW).unwrap();
    assert_eq!(sampled.token_id, 9);
    assert_eq!(sampled.logprobs.unwrap().top[0].0, 1, "log-probabilities are the model's own");
}

#[test]
fn a_mask_that_leaves_nothing_is_an_error_of_its_own() {
    let error = |mask: &TokenMask, logits: &[f32]| sample(logits, &warm(), None, Some(mask), DRAW).unwrap_err();
    let none = TokenMask::new(Vec::new());
    assert_eq!(error(&none, &LOGITS), SampleError::NoAllowedToken { vocab_size: 10 });
    let second = TokenMask::new(vec![2]);
    assert_eq!(error(&second, &[1.0, f32::NAN]), SampleError::NoAllowedToken { vocab_size: 2 });
    assert_eq!(error(&second, &[f32::NAN; 3]), SampleError::NoFiniteLogit { vocab_size: 3 });
}
