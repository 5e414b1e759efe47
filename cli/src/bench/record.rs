//! What a client saw of streams, and the figures that follow from it.

use std::time::Instant;

use crate::bench::spread::Spread;

/// One stream, from the request to its end.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it was asked for.
    pub started: Instant,
    /// When pieces came, and how many tokens each was; servers may send several tokens at once.
    pub pieces: Vec<(Instant, f64)>,
    /// As the server counts.
    pub prompt_tokens: u64,
    /// Of these, from a prefix cache, where the server says it.
    pub cached_tokens: Option<u64>,
    /// As the server counts.
    pub completion_tokens: u64,
}

/// What one run over all streams of a cell gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Of a stream, on average.
    pub prompt_tokens: f64,
    /// Prompt tokens of all streams over the time until each had its first token.
    pub prefill_tokens_per_second: f64,
    /// Over all streams, while every one of them was decoding; `None` if they never were at the same time.
    pub decode_tokens_per_second: Option<f64>,
    /// Generated tokens of all streams, from the first request to the last token.
    pub total_tokens_per_second: f64,
    /// From request to first token; the median of the streams.
    pub ttft_seconds: f64,
}

impl Record {
    /// From request to first piece.
    pub fn ttft_seconds(&self) -> Option<f64> {
        let (first, _) = self.pieces.first()?;
        Some((*first - self.started).as_secs_f64())
    }
}

impl Figures {
    /// Of streams that ran together; `None` if one of them gave nothing.
    pub fn of(records: &[Record]) -> Option<Self> {
        let started = records.iter().map(|record| record.started).min()?;
        let firsts = records.iter().map(|record| record.pieces.first().map(|(at, _)| *at));
        let all_began = firsts.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        let lasts: Vec<Instant> = records.iter().filter_map(|record| record.pieces.last().map(|(at, _)| *at)).collect();
        let (first_ended, all_ended) = (*lasts.iter().min()?, *lasts.iter().max()?);
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let prompt_tokens: f64 = records.iter().map(|record| record.prompt_tokens as f64).sum();
        let generated: f64 = records.iter().map(|record| record.completion_tokens as f64).sum();
        let is_within = |at: Instant| at > all_began && at <= first_ended;
        let pieces = records.iter().flat_map(|record| &record.pieces);
        let decoded: f64 = pieces.filter(|(at, _)| is_within(*at)).map(|(_, tokens)| tokens).sum();
        let window = seconds(all_began, first_ended);
        Some(Self {
            prompt_tokens: prompt_tokens / records.len() as f64,
            prefill_tokens_per_second: prompt_tokens / seconds(started, all_began),
            decode_tokens_per_second: (window > 0.0).then(|| decoded / window),
            total_tokens_per_second: generated / seconds(started, all_ended),
            ttft_seconds: Spread::of(records.iter().filter_map(Record::ttft_seconds))?.median,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn record(start: Instant, pieces: &[(u64, f64)]) -> Record {
        let at = |millis: u64| start + Duration::from_millis(millis);
        let pieces: Vec<_> = pieces.iter().map(|(millis, tokens)| (at(*millis), *tokens)).collect();
        let completion_tokens = pieces.iter().map(|(_, tokens)| *tokens as u64).sum();
        Record { started: start, pieces, prompt_tokens: 100, cached_tokens: None, completion_tokens }
    }

    #[test]
    fn one_stream_decodes_from_its_first_token_to_its_last() {
        let figures = Figures::of(&[record(Instant::now(), &[(500, 1.0), (600, 1.0), (700, 2.0)])]).unwrap();
        assert_eq!(figures.ttft_seconds, 0.5);
        assert_eq!(figures.prefill_tokens_per_second, 200.0);
        assert!((figures.decode_tokens_per_second.unwrap() - 3.0 / 0.2).abs() < 1e-9);
        assert!((figures.total_tokens_per_second - 4.0 / 0.7).abs() < 1e-9);
    }

    #[test]
    fn together_streams_decode_only_while_all_of_them_do() {
        let start = Instant::now();
        let early = record(start, &[(100, 1.0), (200, 1.0), (300, 1.0), (400, 1.0)]);
        let late = record(start, &[(250, 1.0), (350, 1.0), (450, 1.0)]);
        let figures = Figures::of(&[early, late]).unwrap();
        // From 250 to 400 ms: three tokens after the beginning of the window.
        assert!((figures.decode_tokens_per_second.unwrap() - 3.0 / 0.15).abs() < 1e-6);
        assert_eq!(figures.prefill_tokens_per_second, 800.0);
        assert!((figures.total_tokens_per_second - 7.0 / 0.45).abs() < 1e-9);
    }

    #[test]
    fn streams_that_queued_have_no_common_decode_rate() {
        let start = Instant::now();
        let first = record(start, &[(100, 1.0), (200, 1.0)]);
        let queued = record(start, &[(300, 1.0), (400, 1.0)]);
        let figures = Figures::of(&[first, queued]).unwrap();
        assert_eq!(figures.decode_tokens_per_second, None);
        assert_eq!(figures.total_tokens_per_second, 10.0);
        assert_eq!(Figures::of(&[record(start, &[])]), None);
    }
}
