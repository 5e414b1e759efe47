//! The report as a person reads it.

use crate::bench::report::{AgentsReport, Report, RowReport, SharedPrefixReport};
use crate::bench::spread::Spread;

/// Everything but the samples.
pub fn render(report: &Report) -> String {
    let mut text = head(report);
    if !report.rows.is_empty() {
        text.push('\n');
        text.push_str(&aligned(&rows(report)));
    }
    if report.peer.is_some() && !report.rows.is_empty() {
        text.push('\n');
        text.push_str(&aligned(&ratios(report)));
    }
    if let Some(shared) = &report.shared_prefix {
        text.push('\n');
        text.push_str(&agents(shared));
    }
    for skipped in &report.skipped {
        let (context, streams) = (skipped.context, skipped.concurrency);
        text.push_str(&format!("not measured: {context} tokens with {streams} streams: {}\n", skipped.reason));
    }
    if let Some(reason) = &report.cut_short {
        text.push_str(&format!("cut short: {reason}\n"));
    }
    text
}

fn head(report: &Report) -> String {
    let (model, machine) = (&report.model, &report.machine);
    let memory = match &machine.memory_read {
        Some(read) => format!("memory reads {} GB/s", read.bytes_per_second.scaled(1e-9).text(1)),
        None => "memory was not measured".to_owned(),
    };
    let peer =
        report.peer.as_ref().map_or_else(String::new, |peer| format!(", against {} at {}", peer.model, peer.url));
    format!(
        "model    {}: {} {}, {:.1} M weights, {:.1} MB, {:.1} MB read per token\n\
         machine  {} threads, {} ({}); {memory}; load {}\n\
         runs     {}, {}{peer}; median (min to max)\n",
        model.path,
        model.architecture,
        model.quantization,
        model.parameters as f64 / 1e6,
        model.held_bytes as f64 / 1e6,
        model.read_bytes / 1e6,
        machine.threads,
        machine.backend,
        machine.kernels.first().map_or("", String::as_str),
        machine.load_average,
        report.runs,
        report.path,
    )
}

fn rows(report: &Report) -> Vec<Vec<String>> {
    let head = ["context", "streams", "prefill tok/s", "decode tok/s", "TTFT ms", "MB/token", "GB/s", "of memory"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    let cell = |row: &RowReport| {
        vec![
            row.context.to_string(),
            row.concurrency.to_string(),
            row.ours.prefill_tokens_per_second.text(0),
            optional(row.ours.decode_tokens_per_second.as_ref(), 1),
            row.ours.ttft_seconds.scaled(1e3).text(0),
            format!("{:.1}", row.bytes_per_token / 1e6),
            row.bytes_per_second.as_ref().map_or_else(dash, |rate| format!("{:.1}", rate.median / 1e9)),
            row.bandwidth_ratio.as_ref().map_or_else(dash, |ratio| format!("{:.0} %", ratio.median * 1e2)),
        ]
    };
    lines.extend(report.rows.iter().map(cell));
    lines
}

fn ratios(report: &Report) -> Vec<Vec<String>> {
    let head = ["context", "streams", "figure", "ours", "theirs", "ours / theirs"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in &report.rows {
        let (Some(peer), Some(ratio)) = (&row.peer, &row.ratio) else { continue };
        let ours = &row.ours;
        let mut line = |figure: &str, ours: Option<&Spread>, theirs: Option<&Spread>, ratio: Option<&Spread>| {
            let place = [row.context.to_string(), row.concurrency.to_string(), figure.to_owned()];
            let figures = [optional(ours, 1), optional(theirs, 1), optional(ratio, 2)];
            lines.push(place.into_iter().chain(figures).collect());
        };
        line("prompt tokens", Some(&ours.prompt_tokens), Some(&peer.prompt_tokens), None);
        let (prefill, theirs) = (&ours.prefill_tokens_per_second, &peer.prefill_tokens_per_second);
        line("prefill tok/s", Some(prefill), Some(theirs), ratio.prefill_tokens_per_second.as_ref());
        let (decode, theirs) = (ours.decode_tokens_per_second.as_ref(), peer.decode_tokens_per_second.as_ref());
        line("decode tok/s", decode, theirs, ratio.decode_tokens_per_second.as_ref());
        let (total, theirs) = (&ours.total_tokens_per_second, &peer.total_tokens_per_second);
        line("all in all tok/s", Some(total), Some(theirs), ratio.total_tokens_per_second.as_ref());
        let (ttft, theirs) = (ours.ttft_seconds.scaled(1e3), peer.ttft_seconds.scaled(1e3));
        line("TTFT ms", Some(&ttft), Some(&theirs), ratio.ttft_seconds.as_ref());
    }
    lines
}

fn agents(shared: &SharedPrefixReport) -> String {
    let side = |name: &str, agents: &AgentsReport| {
        let milliseconds = |seconds: &Spread| seconds.scaled(1e3).text(1);
        let cached = optional(agents.second_cached_tokens.as_ref(), 0);
        vec![
            name.to_owned(),
            agents.prompt_tokens.text(0),
            milliseconds(&agents.first_ttft_seconds),
            milliseconds(&agents.second_ttft_seconds),
            agents.second_to_first_ratio.text(3),
            cached,
        ]
    };
    let head = ["", "prompt tokens", "first TTFT ms", "second TTFT ms", "second / first", "from cache"];
    let mut lines = vec![head.map(str::to_owned).to_vec(), side("ours", &shared.ours)];
    lines.extend(shared.peer.as_ref().map(|peer| side("theirs", peer)));
    let mut text = format!("two agents, one after the other, share {} tokens\n", shared.prefix_tokens);
    text.push_str(&aligned(&lines));
    if let Some(ratio) = &shared.second_ttft_ratio {
        text.push_str(&format!("second TTFT, ours / theirs: {}\n", ratio.text(2)));
    }
    text
}

fn optional(spread: Option<&Spread>, digits: usize) -> String {
    spread.map_or_else(dash, |spread| spread.text(digits))
}

fn dash() -> String {
    "-".to_owned()
}

/// Columns as wide as their widest cell, to the right, two spaces apart.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  "))
    };
    lines.iter().map(padded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let line = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(aligned(&[line(["a", "figure"]), line(["long", "1"])]), "   a  figure\nlong       1\n");
    }
}
