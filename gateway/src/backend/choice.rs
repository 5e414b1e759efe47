//! Which of several copies of a model a request goes to. Pure.
//!
//! A conversation goes to where its beginning has been computed already, as long as that copy is about as busy as the
//! others: a step takes about as long for one sequence more, a long prompt computed anew takes seconds.

use std::hash::{DefaultHasher, Hash, Hasher};

use kindling_proto::v1::GenerateRequest;
use kindling_proto::v1::generate_request::Input;

/// A conversation stays where it is while that copy has at most so many requests more than the least busy one.
const SLACK: usize = 1;
/// So much of a prompt without messages tells which conversation it is.
const BEGINNING: usize = 1024;

/// A copy of the model.
#[derive(Debug)]
pub(super) struct Candidate {
    pub address: String,
    /// Requests that this gateway has sent there and that are not over.
    pub in_flight: usize,
}

/// Of the copies that are not much busier than the least busy one, the one that this conversation always comes to.
pub(super) fn choose(candidates: &[(usize, Candidate)], conversation: u64) -> Option<usize> {
    let least = candidates.iter().map(|(_, candidate)| candidate.in_flight).min()?;
    let free = candidates.iter().filter(|(_, candidate)| candidate.in_flight <= least + SLACK);
    // Rendezvous hashing: when a copy goes, only its own conversations move.
    let weight = |candidate: &Candidate| hash(&(conversation, &candidate.address));
    free.max_by_key(|(_, candidate)| weight(candidate)).map(|(index, _)| *index)
}

/// The same for all requests of a conversation: what it began with, up to the first words of the user.
pub(super) fn conversation(request: &GenerateRequest) -> u64 {
    match &request.input {
        Some(Input::Chat(chat)) => {
            let first_user = chat.messages.iter().position(|message| message.role == "user");
            let beginning = &chat.messages[..first_user.map_or(chat.messages.len(), |index| index + 1)];
            hash(&(beginning, &chat.tools_json))
        }
        Some(Input::Text(text)) => hash(&text.as_bytes()[..text.len().min(BEGINNING)]),
        Some(Input::TokenIds(tokens)) => hash(&tokens.ids[..tokens.ids.len().min(BEGINNING)]),
        None => 0,
    }
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use kindling_proto::v1::{ChatInput, ChatMessage};

    use super::*;

    fn copies(in_flight: &[usize]) -> Vec<(usize, Candidate)> {
        let copy = |(index, in_flight): (usize, &usize)| {
            (index, Candidate { address: format!("10.0.0.{index}:50051"), in_flight: *in_flight })
        };
        in_flight.iter().enumerate().map(copy).collect()
    }

    fn chat(messages: &[(&str, &str)]) -> GenerateRequest {
        let message = |(role, content): &(&str, &str)| ChatMessage {
            role: (*role).to_owned(),
            content: (*content).to_owned(),
            ..ChatMessage::default()
        };
        let messages = messages.iter().map(message).collect();
        GenerateRequest {
            input: Some(Input::Chat(ChatInput { messages, ..ChatInput::default() })),
            ..GenerateRequest::default()
        }
    }

    #[test]
    fn conversation_stays_where_it_began_and_others_go_elsewhere() {
        let first = conversation(&chat(&[("system", "an agent"), ("user", "hello")]));
        let later =
            conversation(&chat(&[("system", "an agent"), ("user", "hello"), ("assistant", "hi"), ("user", "a")]));
        assert_eq!(first, later);
        assert_ne!(first, conversation(&chat(&[("system", "an agent"), ("user", "good bye")])));
    }

    #[test]
    fn conversations_are_spread_over_idle_copies() {
        let mut counts = [0; 3];
        for number in 0..3000_u64 {
            counts[choose(&copies(&[0, 0, 0]), hash(&number)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn busy_copy_is_passed_by_however_much_a_conversation_belongs_there() {
        for number in 0..100_u64 {
            assert_eq!(choose(&copies(&[2, 0]), hash(&number)), Some(1));
            assert_eq!(choose(&copies(&[7, 9]), hash(&number)), Some(0));
        }
        assert_eq!(choose(&[], 7), None);
    }

    #[test]
    fn when_a_copy_goes_only_its_own_conversations_move() {
        for number in 0..300_u64 {
            let before = choose(&copies(&[0, 0, 0]), hash(&number)).unwrap();
            let after = choose(&copies(&[0, 0]), hash(&number)).unwrap();
            assert!(before == 2 || before == after, "{number}");
        }
    }

    #[test]
    fn prompt_that_ends_inside_a_character_at_the_limit_is_no_trouble() {
        let text = format!("{}ü", "a".repeat(BEGINNING - 1));
        let request = GenerateRequest { input: Some(Input::Text(text)), ..GenerateRequest::default() };
        assert_ne!(conversation(&request), 0);
    }
}
