//! What `kindling bench --output json` writes, and what its table is made of.

use serde::Serialize;

use crate::bench::bandwidth::Bandwidth;
use crate::bench::cells::{Cell, Skipped};
use crate::bench::record::Figures;
use crate::bench::spread::Spread;

/// Changes when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// Everything that was measured, and what it was measured on. Rates are per second, sizes in bytes, times in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of Kindling.
    pub version: &'static str,
    /// What was measured.
    pub model: ModelReport,
    /// On what.
    pub machine: MachineReport,
    /// `in-process`, `raw` or `http`: which way our side was asked.
    pub path: &'static str,
    /// The other server.
    pub peer: Option<PeerReport>,
    /// Runs of every row that were finished.
    pub runs: usize,
    /// Whether Ctrl-C or the time limit cut it short, and how.
    pub cut_short: Option<String>,
    /// One per context and number of streams.
    pub rows: Vec<RowReport>,
    /// What was not measured.
    pub skipped: Vec<Skipped>,
    /// Two agents whose prompts begin alike.
    pub shared_prefix: Option<SharedPrefixReport>,
}

/// The model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// The file or folder.
    pub path: String,
    /// E.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// E.g. `Q4_1`.
    pub quantization: String,
    /// Weights.
    pub parameters: u64,
    /// As stored.
    pub stored_bytes: u64,
    /// As held by the backend.
    pub held_bytes: usize,
    /// Of the held ones, those that decoding one sequence reads per token.
    pub read_bytes: f64,
    /// Longest sequence that the model was made for.
    pub context_length: usize,
}

/// The machine and how it was used.
#[derive(Debug, Clone, Serialize)]
pub struct MachineReport {
    /// Threads that compute.
    pub threads: usize,
    /// Name of the backend.
    pub backend: &'static str,
    /// Kernels in use.
    pub kernels: Vec<String>,
    /// Of one, five and fifteen minutes, before the first run.
    pub load_average: String,
    /// How fast memory is read; `None` if it was not measured.
    pub memory_read: Option<Bandwidth>,
}

/// The other server.
#[derive(Debug, Clone, Serialize)]
pub struct PeerReport {
    /// Its address.
    pub url: String,
    /// Its name for the model.
    pub model: String,
}

/// One context and number of streams.
#[derive(Debug, Clone, Serialize)]
pub struct RowReport {
    /// Tokens of each prompt, as asked for.
    pub context: usize,
    /// Streams at a time.
    pub concurrency: usize,
    /// Tokens that each stream generated.
    pub max_tokens: usize,
    /// Bytes that our backend reads per decoded token: its share of the weights, and keys and values.
    pub bytes_per_token: f64,
    /// `bytes_per_token` times our decode rate.
    pub bytes_per_second: Option<Spread>,
    /// That, over what memory gives.
    pub bandwidth_ratio: Option<Spread>,
    /// Our side.
    pub ours: SideReport,
    /// The other server.
    pub peer: Option<SideReport>,
    /// Ours over theirs, pair by pair.
    pub ratio: Option<RatioReport>,
}

/// Figures of one side of a row.
#[derive(Debug, Clone, Serialize)]
pub struct SideReport {
    /// Per stream, as the side itself counted.
    pub prompt_tokens: Spread,
    /// See [`Figures`].
    pub prefill_tokens_per_second: Spread,
    /// See [`Figures`].
    pub decode_tokens_per_second: Option<Spread>,
    /// See [`Figures`].
    pub total_tokens_per_second: Spread,
    /// See [`Figures`].
    pub ttft_seconds: Spread,
}

/// Ours over theirs.
#[derive(Debug, Clone, Serialize)]
pub struct RatioReport {
    /// Above 1, ours is faster.
    pub prefill_tokens_per_second: Option<Spread>,
    /// Above 1, ours is faster.
    pub decode_tokens_per_second: Option<Spread>,
    /// Above 1, ours is faster.
    pub total_tokens_per_second: Option<Spread>,
    /// Below 1, ours is faster.
    pub ttft_seconds: Option<Spread>,
}

/// Two agents, one after the other, whose prompts begin alike.
#[derive(Debug, Clone, Serialize)]
pub struct SharedPrefixReport {
    /// Tokens of the common beginning.
    pub prefix_tokens: usize,
    /// Our side.
    pub ours: AgentsReport,
    /// The other server.
    pub peer: Option<AgentsReport>,
    /// Ours over theirs; below 1, ours is faster.
    pub second_ttft_ratio: Option<Spread>,
}

/// Two agents on one side.
#[derive(Debug, Clone, Serialize)]
pub struct AgentsReport {
    /// Of the first agent's prompt, as the side itself counted.
    pub prompt_tokens: Spread,
    /// From request to first token.
    pub first_ttft_seconds: Spread,
    /// Of the one that came second.
    pub second_ttft_seconds: Spread,
    /// Second over first, in the same run.
    pub second_to_first_ratio: Spread,
    /// Of the second agent's prompt, what a prefix cache knew, where the side says it.
    pub second_cached_tokens: Option<Spread>,
}

/// What one run with two agents gave.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentFigures {
    /// Of the first agent's prompt.
    pub prompt_tokens: f64,
    /// Of the first agent.
    pub first_ttft_seconds: f64,
    /// Of the second agent.
    pub second_ttft_seconds: f64,
    /// Of the second agent's prompt.
    pub second_cached_tokens: Option<f64>,
}

impl RowReport {
    /// Of all runs of a row; `None` of none. `memory_rate` is what memory gives, in bytes per second.
    pub fn of(
        cell: &Cell,
        bytes_per_token: f64,
        memory_rate: Option<f64>,
        [ours, peer]: [&[Figures]; 2],
    ) -> Option<Self> {
        let (ours, peer) = (SideReport::of(ours)?, SideReport::of(peer));
        let bytes_per_second = ours.decode_tokens_per_second.as_ref().map(|rate| rate.scaled(bytes_per_token));
        let bandwidth_ratio =
            bytes_per_second.as_ref().zip(memory_rate).map(|(rate, memory)| rate.scaled(1.0 / memory));
        let ratio = peer.as_ref().map(|peer| RatioReport {
            prefill_tokens_per_second: ours.prefill_tokens_per_second.ratio(&peer.prefill_tokens_per_second),
            decode_tokens_per_second: ours
                .decode_tokens_per_second
                .as_ref()
                .zip(peer.decode_tokens_per_second.as_ref())
                .and_then(|(ours, theirs)| ours.ratio(theirs)),
            total_tokens_per_second: ours.total_tokens_per_second.ratio(&peer.total_tokens_per_second),
            ttft_seconds: ours.ttft_seconds.ratio(&peer.ttft_seconds),
        });
        let Cell { context, concurrency, max_tokens } = *cell;
        Some(Self {
            context,
            concurrency,
            max_tokens,
            bytes_per_token,
            bytes_per_second,
            bandwidth_ratio,
            ours,
            peer,
            ratio,
        })
    }
}

impl SideReport {
    fn of(runs: &[Figures]) -> Option<Self> {
        let spread = |figure: fn(&Figures) -> f64| Spread::of(runs.iter().map(figure));
        // A rate that some runs lack would be a rate of other runs than the rest of the row.
        let decode = runs.iter().map(|run| run.decode_tokens_per_second).collect::<Option<Vec<_>>>();
        Some(Self {
            prompt_tokens: spread(|run| run.prompt_tokens)?,
            prefill_tokens_per_second: spread(|run| run.prefill_tokens_per_second)?,
            decode_tokens_per_second: decode.and_then(Spread::of),
            total_tokens_per_second: spread(|run| run.total_tokens_per_second)?,
            ttft_seconds: spread(|run| run.ttft_seconds)?,
        })
    }
}

impl SharedPrefixReport {
    /// Of all runs; `None` of none.
    pub fn of(prefix_tokens: usize, [ours, peer]: [&[AgentFigures]; 2]) -> Option<Self> {
        let (ours, peer) = (AgentsReport::of(ours)?, AgentsReport::of(peer));
        let second_ttft_ratio =
            peer.as_ref().and_then(|peer| ours.second_ttft_seconds.ratio(&peer.second_ttft_seconds));
        Some(Self { prefix_tokens, ours, peer, second_ttft_ratio })
    }
}

impl AgentsReport {
    fn of(runs: &[AgentFigures]) -> Option<Self> {
        let spread = |figure: fn(&AgentFigures) -> f64| Spread::of(runs.iter().map(figure));
        let first_ttft_seconds = spread(|run| run.first_ttft_seconds)?;
        let second_ttft_seconds = spread(|run| run.second_ttft_seconds)?;
        Some(Self {
            prompt_tokens: spread(|run| run.prompt_tokens)?,
            second_to_first_ratio: second_ttft_seconds.ratio(&first_ttft_seconds)?,
            first_ttft_seconds,
            second_ttft_seconds,
            second_cached_tokens: runs
                .iter()
                .map(|run| run.second_cached_tokens)
                .collect::<Option<Vec<_>>>()
                .and_then(Spread::of),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Cell = Cell { context: 512, concurrency: 1, max_tokens: 64 };

    fn figures(decode: Option<f64>, ttft_seconds: f64) -> Figures {
        Figures {
            prompt_tokens: 512.0,
            prefill_tokens_per_second: 1000.0,
            decode_tokens_per_second: decode,
            total_tokens_per_second: 50.0,
            ttft_seconds,
        }
    }

    #[test]
    fn a_row_holds_bytes_against_what_memory_gives() {
        let runs = [figures(Some(100.0), 0.5), figures(Some(200.0), 0.5)];
        let row = RowReport::of(&CELL, 1e8, Some(4e10), [&runs, &[]]).unwrap();
        assert_eq!(row.bytes_per_second.unwrap().samples, [1e10, 2e10]);
        assert!((row.bandwidth_ratio.unwrap().median - 0.375).abs() < 1e-12);
        assert!(row.peer.is_none() && row.ratio.is_none());
        assert!(RowReport::of(&CELL, 1e8, None, [&[], &[]]).is_none());
    }

    #[test]
    fn a_ratio_is_ours_over_theirs() {
        let ours = [figures(Some(100.0), 0.5), figures(Some(90.0), 1.0)];
        let theirs = [figures(Some(50.0), 1.0), figures(Some(30.0), 1.0)];
        let ratio = RowReport::of(&CELL, 1.0, None, [&ours, &theirs]).unwrap().ratio.unwrap();
        assert_eq!(ratio.decode_tokens_per_second.unwrap().samples, [2.0, 3.0]);
        assert_eq!(ratio.ttft_seconds.unwrap().samples, [0.5, 1.0]);
    }

    #[test]
    fn a_rate_that_one_run_lacks_is_not_reported() {
        let runs = [figures(Some(100.0), 0.5), figures(None, 0.5)];
        let row = RowReport::of(&CELL, 1.0, Some(1.0), [&runs, &[]]).unwrap();
        assert!(row.ours.decode_tokens_per_second.is_none() && row.bytes_per_second.is_none());
    }

    #[test]
    fn the_second_agent_is_held_against_the_first() {
        let run = |second| AgentFigures {
            prompt_tokens: 1000.0,
            first_ttft_seconds: 2.0,
            second_ttft_seconds: second,
            second_cached_tokens: None,
        };
        let shared = SharedPrefixReport::of(1000, [&[run(0.2)], &[run(0.4)]]).unwrap();
        assert_eq!(shared.ours.second_to_first_ratio.median, 0.1);
        assert_eq!(shared.second_ttft_ratio.unwrap().median, 0.5);
        assert!(shared.ours.second_cached_tokens.is_none());
    }
}
