use super::*;

const GEOMETRY: Geometry = Geometry { block_size: 4, max_batched_tokens: 32 };
const WINDOW: GroupKind = GroupKind::Window { window: 8 };

fn full(num_free: usize) -> Vec<GroupUse> {
    vec![GroupUse { kind: GroupKind::Full, num_free }]
}

fn candidate(num_tokens: usize, num_computed: usize, num_blocks: usize) -> Candidate {
    let tables = vec![TableUse { len: num_blocks, num_live: num_blocks }];
    Candidate { num_tokens, num_computed, until: num_tokens, tables }
}

fn decoding(num_tokens: usize) -> Candidate {
    candidate(num_tokens, num_tokens - 1, (num_tokens - 1).div_ceil(4))
}

fn fresh(num_tokens: usize) -> Candidate {
    candidate(num_tokens, 0, 0)
}

#[test]
fn a_long_prompt_leaves_a_token_to_those_after_it() {
    let running = [candidate(500, 32, 8), decoding(7), decoding(7)];
    assert_eq!(share(&running, &full(100), GEOMETRY), Decision::Compute(vec![30, 1, 1]));
}

#[test]
fn the_latest_arrival_is_preempted_when_blocks_run_out() {
    let running = [decoding(9), decoding(6), decoding(7)];
    assert_eq!(share(&running, &full(0), GEOMETRY), Decision::PreemptLast);
    assert_eq!(share(&running[..2], &full(2), GEOMETRY), Decision::Compute(vec![1, 1]));
}

#[test]
fn the_last_of_the_running_waits_with_its_blocks() {
    let running = [decoding(6), decoding(9)];
    assert_eq!(share(&running, &full(0), GEOMETRY), Decision::Compute(vec![1, 0]));
}

#[test]
fn a_sequence_starts_only_if_there_is_room_for_all_of_it() {
    let start = |candidate: &Candidate, running: &[Candidate], num_free| {
        admit(candidate, 30, running, &full(num_free), GEOMETRY)
    };
    assert_eq!(start(&fresh(40), &[], 10), None, "one token more needs the eleventh block");
    assert_eq!(start(&fresh(40), &[], 11), Some(30));
    // A prefill that still needs seven blocks comes first.
    assert_eq!(start(&fresh(8), &[candidate(60, 28, 8)], 9), None);
    assert_eq!(start(&fresh(8), &[candidate(60, 28, 8)], 10), Some(8));
    assert_eq!(admit(&fresh(8), 0, &[], &full(10), GEOMETRY), None, "no token left");
    // Blocks of a cached prefix are held already.
    assert_eq!(start(&candidate(40, 36, 9), &[], 2), Some(4));
}

#[test]
fn each_group_is_counted_by_its_own_rule() {
    let groups = |full, window, slots| {
        let kinds = [(GroupKind::Full, full), (WINDOW, window), (GroupKind::Recurrent, slots)];
        kinds.map(|(kind, num_free)| GroupUse { kind, num_free })
    };
    let fresh = Candidate { tables: vec![TableUse { len: 0, num_live: 0 }; 3], ..fresh(400) };
    // 8 tokens of window and 32 of a step touch 11 blocks at most.
    let start = |full, window, slots| admit(&fresh, 32, &[], &groups(full, window, slots), GEOMETRY);
    assert_eq!(start(101, 11, 1), Some(32));
    assert_eq!((start(100, 11, 1), start(101, 10, 1), start(101, 11, 0)), (None, None, None));
    let tables = [(25, 25), (25, 2), (1, 1)].map(|(len, num_live)| TableUse { len, num_live }).to_vec();
    let running = [Candidate { num_tokens: 400, num_computed: 100, until: 400, tables }];
    assert_eq!(share(&running, &groups(80, 8, 0), GEOMETRY), Decision::Compute(vec![32]));
    assert_eq!(share(&running, &groups(80, 2, 0), GEOMETRY), Decision::Compute(vec![8]));
}

#[test]
fn a_step_ends_where_a_state_is_to_be_kept() {
    let prefilling = Candidate { until: 40, ..candidate(50, 32, 8) };
    assert_eq!(share(&[prefilling], &full(100), GEOMETRY), Decision::Compute(vec![8]));
    let start = Candidate { until: 12, ..fresh(14) };
    assert_eq!(admit(&start, 32, &[], &full(100), GEOMETRY), Some(12));
}
