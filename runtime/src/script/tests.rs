use super::*;

fn problem(yaml: &str) -> String {
    Script::parse(yaml).unwrap_err().to_string()
}

#[test]
fn reads_texts_tokens_and_paces() {
    let script = Script::parse(
        r#"
- when: story
  outputs:
    - play: Once
    - play: ["On", "ce", 17]
      then: repeat
      first_token_ms: 250
      tokens_per_second: 50
- outputs: [{play: [], then: fail, token_ms: 0.5}]
"#,
    )
    .unwrap();
    assert_eq!(script.rules[0].when.as_deref(), Some("story"));
    let [plain, paced] = script.rules[0].outputs.as_slice() else { panic!("two outputs") };
    assert_eq!((plain.then, plain.before_first), (Then::Stop, Duration::ZERO));
    assert_eq!(paced.play, [Piece::Text("On".into()), Piece::Text("ce".into()), Piece::Token(17)]);
    assert_eq!((paced.before_first, paced.before_others), (Duration::from_millis(250), Duration::from_millis(20)));
    let last = &script.rules[1].outputs[0];
    assert_eq!((last.then, last.before_first), (Then::Fail, Duration::from_micros(500)));
}

#[test]
fn refuses_what_cannot_be_played() {
    assert!(problem("[]").contains("rule 1 of the script: it is missing"));
    assert!(problem("- outputs: []").contains("it has no outputs"));
    assert!(problem("- when: x\n  outputs: [{play: a}]").contains("the last rule"));
    assert!(problem("- outputs: [{play: a}]\n- outputs: [{play: a}]").starts_with("rule 1 of the script: the last"));
    assert!(problem("- outputs: [{play: a, token_ms: -1}]").contains("token_ms makes a pause of -0.001 s"));
    assert!(problem("- outputs: [{play: a, tokens_per_second: 0}]").contains("pause of inf s"));
    assert!(problem("- outputs: [{play: a, token_ms: 1, tokens_per_second: 2}]").contains("one is enough"));
    assert!(problem("- outputs: [{play: a, pace: 3}]").contains("unknown field `pace`"));
}
