//! Prompts of a wanted number of tokens, different in every run, so that no prefix cache knows them.

use crate::bench::in_process_side::InProcessSide;
use crate::bench::raw_side::RawSide;

/// Common words: in most vocabularies each is one token with the space before it.
const WORDS: [&str; 32] = [
    "the", "water", "house", "light", "people", "small", "world", "time", "year", "school", "state", "work", "group",
    "place", "night", "point", "city", "story", "hand", "life", "day", "part", "child", "eye", "week", "case",
    "company", "number", "system", "program", "question", "money",
];

/// The same prompt as text and as token ids of our tokenizer.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// For servers that are asked over HTTP; may have a few tokens less than `token_ids`.
    pub text: String,
    /// For our engine in this process.
    pub token_ids: Vec<u32>,
}

/// Makes prompts with the tokenizer of the model that is measured.
pub struct Prompts {
    tokenizer: Tokenizer,
    state: u64,
}

/// Who knows the vocabulary.
#[derive(Clone)]
pub enum Tokenizer {
    /// The runtime in this process.
    InProcess(InProcessSide),
    /// The model that is driven by hand.
    Raw(RawSide),
}

impl Tokenizer {
    async fn tokenize(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        match self {
            Self::InProcess(side) => side.tokenize(text.to_owned()).await,
            Self::Raw(side) => side.tokenize(text),
        }
    }
}

impl Prompts {
    /// Seeded by the clock: a second command on the same server asks for other prompts too.
    pub fn new(tokenizer: Tokenizer) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { tokenizer, state: now.as_nanos() as u64 | 1 }
    }

    /// One prompt of `num_tokens` tokens. The text may have less, where the next word would be too much.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub async fn make(&mut self, num_tokens: usize) -> anyhow::Result<Prompt> {
        // Little by little: a text that is far too long for the context is refused before it is tokenized.
        let mut words = self.words(num_tokens / 8 + 1);
        let mut token_ids = self.tokenizer.tokenize(&words.join(" ")).await?;
        while token_ids.len() < num_tokens {
            let more = words.len() / 4 + 1;
            words.extend(self.words(more));
            token_ids = self.tokenizer.tokenize(&words.join(" ")).await?;
        }
        // The most words that are not too many: more words are never fewer tokens.
        let (mut fit, mut too_many) = (1, words.len() + 1);
        while fit + 1 < too_many {
            let middle = usize::midpoint(fit, too_many);
            if self.tokenizer.tokenize(&words[..middle].join(" ")).await?.len() <= num_tokens {
                fit = middle;
            } else {
                too_many = middle;
            }
        }
        token_ids.truncate(num_tokens);
        Ok(Prompt { text: words[..fit].join(" "), token_ids })
    }

    /// Two prompts with a common beginning of about `prefix_tokens` tokens, each with a question of its own.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub async fn make_agents(&mut self, prefix_tokens: usize) -> anyhow::Result<[Prompt; 2]> {
        let prefix = self.make(prefix_tokens).await?.text;
        let first = format!("{prefix} {}", self.words(8).join(" "));
        let second = format!("{prefix} {}", self.words(8).join(" "));
        let (first_ids, second_ids) = (self.tokenizer.tokenize(&first).await?, self.tokenizer.tokenize(&second).await?);
        Ok([Prompt { text: first, token_ids: first_ids }, Prompt { text: second, token_ids: second_ids }])
    }

    fn words(&mut self, count: usize) -> Vec<&'static str> {
        (0..count).map(|_| WORDS[self.random(WORDS.len())]).collect()
    }

    /// Any simple generator will do: xorshift.
    fn random(&mut self, below: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 33) as usize % below
    }
}
