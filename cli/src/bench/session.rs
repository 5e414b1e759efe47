//! The measuring itself: runs over all rows, both sides one right after the other, within a time limit.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::bench::cells::{Cell, Plan, Skipped};
use crate::bench::prompt::{Prompt, Prompts};
use crate::bench::record::{Figures, Record};
use crate::bench::report::AgentFigures;
use crate::bench::side::{Side, Work};

/// Tokens of the answers of two agents: only the first one matters.
const AGENT_TOKENS: usize = 8;
/// Of the unmeasured request that touches every weight once: prompt and answer have so many each.
const WARM_UP_TOKENS: usize = 16;

/// Who is measured, with what, for how long.
pub struct Session {
    /// Ours, and the other server where there is one.
    pub sides: Vec<Side>,
    /// Makes prompts.
    pub prompts: Prompts,
    /// What is measured.
    pub plan: Plan,
    /// How often.
    pub runs: usize,
    /// No row is begun that would probably end later than this after the beginning.
    pub time_limit: Duration,
    /// Ends it.
    pub interrupted: CancellationToken,
}

/// What came out.
#[derive(Default)]
pub struct Outcome {
    /// In the order of the plan's cells: figures of our side, and of the other.
    pub rows: Vec<[Vec<Figures>; 2]>,
    /// Of two agents: ours, and the other's.
    pub agents: [Vec<AgentFigures>; 2],
    /// Rows that would have taken too long.
    pub skipped: Vec<Skipped>,
    /// Runs of every row that were finished.
    pub runs: usize,
    /// Why there are less runs than asked for.
    pub cut_short: Option<String>,
}

/// Where in the session something was.
struct Clock {
    started: Instant,
    limit: Duration,
    /// Prompt tokens per second of the last row, its decoding and all sides included.
    pace: Option<f64>,
}

impl Session {
    /// Measures until all is done, the time is over or it is interrupted; what was measured until then is the outcome.
    ///
    /// # Errors
    /// If a side fails.
    pub async fn measure(&mut self) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome { rows: vec![Default::default(); self.plan.cells.len()], ..Outcome::default() };
        let interrupted = self.interrupted.clone();
        let ended = tokio::select! {
            ended = self.measure_into(&mut outcome) => Some(ended),
            () = interrupted.cancelled() => None,
        };
        match ended {
            Some(Err(error)) if !interrupted.is_cancelled() => return Err(error),
            Some(Ok(())) => {}
            _ => outcome.cut_short = Some(format!("interrupted in run {} of {}", outcome.runs + 1, self.runs)),
        }
        Ok(outcome)
    }

    async fn measure_into(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let mut clock = Clock { started: Instant::now(), limit: self.time_limit, pace: None };
        // Within the context that the model was loaded with, which may be tiny.
        let num_tokens = (self.plan.context_length() / 2).clamp(1, WARM_UP_TOKENS);
        for index in 0..self.sides.len() {
            let work = self.work(1, num_tokens, num_tokens).await?;
            self.sides[index].run(&work).await?;
        }
        let mut too_slow = HashSet::new();
        for run in 0..self.runs {
            let run_started = Instant::now();
            for (index, cell) in self.plan.cells.clone().iter().enumerate() {
                if run == 0 && clock.would_be_late(cell) {
                    too_slow.insert(index);
                    outcome.skipped.push(clock.skip(cell));
                }
                if too_slow.contains(&index) {
                    continue;
                }
                eprintln!("run {} of {}: {} tokens, streams: {}", run + 1, self.runs, cell.context, cell.concurrency);
                let row_started = Instant::now();
                self.measure_cell(run, cell, &mut outcome.rows[index]).await?;
                clock.note(cell, row_started.elapsed());
            }
            self.measure_agents(run, &mut outcome.agents).await?;
            outcome.runs = run + 1;
            let left = clock.limit.saturating_sub(clock.started.elapsed());
            if run + 1 < self.runs && left < run_started.elapsed() {
                outcome.cut_short = Some(format!(
                    "{} of {} runs: the time limit of {} s (--max-seconds) leaves no room for another",
                    run + 1,
                    self.runs,
                    clock.limit.as_secs()
                ));
                break;
            }
        }
        Ok(())
    }

    /// All streams of a cell on every side. The sides take turns in being first.
    async fn measure_cell(&mut self, run: usize, cell: &Cell, row: &mut [Vec<Figures>; 2]) -> anyhow::Result<()> {
        let work = self.work(cell.concurrency, cell.context, cell.max_tokens).await?;
        let mut figures = Vec::new();
        for index in self.order(run) {
            let records = self.sides[index].run(&work).await?;
            figures.push((index, Figures::of(&records).context("a stream gave no token")?));
        }
        // Only whole pairs count.
        figures.into_iter().for_each(|(index, figures)| row[index].push(figures));
        Ok(())
    }

    async fn measure_agents(&mut self, run: usize, agents: &mut [Vec<AgentFigures>; 2]) -> anyhow::Result<()> {
        let Some(prefix_tokens) = self.plan.shared_prefix else { return Ok(()) };
        eprintln!("run {} of {}: two agents share {prefix_tokens} tokens", run + 1, self.runs);
        let prompts = self.prompts.make_agents(prefix_tokens).await?;
        let mut figures = Vec::new();
        for index in self.order(run) {
            let mut records = Vec::new();
            for prompt in &prompts {
                let work = Work { prompts: vec![prompt.clone()], max_tokens: AGENT_TOKENS };
                records.extend(self.sides[index].run(&work).await?);
            }
            figures.push((index, agent_figures(&records)?));
        }
        figures.into_iter().for_each(|(index, figures)| agents[index].push(figures));
        Ok(())
    }

    fn order(&self, run: usize) -> Vec<usize> {
        let count = self.sides.len();
        (0..count).map(|index| (index + run) % count).collect()
    }

    async fn work(&mut self, streams: usize, context: usize, max_tokens: usize) -> anyhow::Result<Work> {
        let mut prompts: Vec<Prompt> = Vec::with_capacity(streams);
        for _ in 0..streams {
            prompts.push(self.prompts.make(context).await?);
        }
        Ok(Work { prompts, max_tokens })
    }
}

fn agent_figures(records: &[Record]) -> anyhow::Result<AgentFigures> {
    let [first, second] = records else { bail!("two agents should give two streams") };
    let ttft = |record: &Record| record.ttft_seconds().context("an agent got no token");
    Ok(AgentFigures {
        prompt_tokens: first.prompt_tokens as f64,
        first_ttft_seconds: ttft(first)?,
        second_ttft_seconds: ttft(second)?,
        second_cached_tokens: second.cached_tokens.map(|tokens| tokens as f64),
    })
}

impl Clock {
    /// By the pace of the row before, in tokens read and generated: it had shorter prompts, and long ones are slower
    /// per token. What this row will generate is left out, so this is rather too little than too much.
    fn expected(&self, cell: &Cell) -> Option<Duration> {
        Some(Duration::from_secs_f64(prompt_tokens(cell) / self.pace?))
    }

    fn would_be_late(&self, cell: &Cell) -> bool {
        self.expected(cell).is_some_and(|expected| self.started.elapsed() + expected > self.limit)
    }

    fn skip(&self, cell: &Cell) -> Skipped {
        let expected = self.expected(cell).unwrap_or_default().as_secs();
        let reason = format!(
            "it would take {expected} s or more, and {} of {} s (--max-seconds) are over",
            self.started.elapsed().as_secs(),
            self.limit.as_secs()
        );
        Skipped { context: cell.context, concurrency: cell.concurrency, reason }
    }

    fn note(&mut self, cell: &Cell, took: Duration) {
        let generated = (cell.max_tokens * cell.concurrency) as f64;
        self.pace = Some((prompt_tokens(cell) + generated) / took.as_secs_f64().max(1e-9));
    }
}

fn prompt_tokens(cell: &Cell) -> f64 {
    (cell.context * cell.concurrency) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(context: usize, concurrency: usize) -> Cell {
        Cell { context, concurrency, max_tokens: 64 }
    }

    #[test]
    fn a_row_that_would_end_too_late_is_not_begun() {
        let mut clock = Clock { started: Instant::now(), limit: Duration::from_secs(60), pace: None };
        assert!(!clock.would_be_late(&cell(32_768, 1)), "nothing is known yet");
        clock.note(&cell(500, 2), Duration::from_secs(1));
        assert!(!clock.would_be_late(&cell(2048, 16)), "29 s");
        assert!(clock.would_be_late(&cell(8192, 16)), "116 s");
        let after_one_token = Cell { context: 1, concurrency: 1, max_tokens: 128 };
        clock.note(&after_one_token, Duration::from_secs(1));
        assert!(!clock.would_be_late(&cell(4096, 1)), "what was generated counts: 32 s, not 4096");
        clock.note(&cell(500, 2), Duration::from_secs(1));
        let reason = clock.skip(&cell(8192, 16)).reason;
        assert!(reason.contains("116 s or more") && reason.contains("--max-seconds"), "{reason}");
    }
}
