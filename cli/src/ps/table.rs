//! The answer as a person reads it.

use std::fmt::Write;

use kindling_api::{ConditionType, LocalModel, NodeEnvelope};
use kindling_envelope::Bytes;
use kube::ResourceExt;

use super::{places, state};
use crate::cluster::Found;

const GAP: &str = "  ";
const NONE: &str = "-";

/// Renders it, a line at its end.
pub fn render(found: &Found) -> String {
    let mut text = match &found.nodes {
        Ok(nodes) => aligned(&node_rows(nodes)),
        Err(reason) => format!("nodes and their ledgers are not shown: {reason}\n"),
    };
    text.push('\n');
    if found.models.is_empty() {
        text.push_str("no models\n");
        return text;
    }
    text.push_str(&aligned(&model_rows(found)));
    for model in &found.models {
        let Some(words) = why_not_ready(model) else { continue };
        let _ = write!(text, "\n{}: {words}\n", full_name(model));
    }
    text
}

/// What is promised on a node.
pub fn reserved(node: &NodeEnvelope) -> Bytes {
    node.spec.reservations.iter().map(|held| Bytes(held.bytes)).sum()
}

fn node_rows(nodes: &[NodeEnvelope]) -> Vec<Vec<String>> {
    let head = ["NODE", "TOTAL", "BASELINE", "RESERVED", "AVAILABLE", "PRESSURE"];
    let rows = nodes.iter().map(|node| {
        let status = node.status.clone().unwrap_or_default();
        let memory = status.memory;
        let bytes = |of: fn(&kindling_api::NodeMemory) -> u64| {
            memory.as_ref().map_or_else(|| NONE.to_owned(), |memory| Bytes(of(memory)).to_string())
        };
        vec![
            node.name_any(),
            bytes(|memory| memory.total_bytes),
            bytes(|memory| memory.baseline_bytes),
            reserved(node).to_string(),
            bytes(|memory| memory.available_bytes),
            if memory.is_some() { format!("{:?}", status.pressure) } else { "not measured".to_owned() },
        ]
    });
    std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect()
}

fn model_rows(found: &Found) -> Vec<Vec<String>> {
    let head =
        ["MODEL", "STATE", "NODE", "CONTEXT", "MEMORY", "WEIGHTS", "KV CACHE", "ACTIVATIONS", "PROCESS", "TOTAL"];
    let rows = found.models.iter().flat_map(|model| rows_of(found, model));
    std::iter::once(head.map(str::to_owned).to_vec()).chain(rows).collect()
}

/// One row for what was predicted, one for what was measured; at least one.
fn rows_of(found: &Found, model: &LocalModel) -> Vec<Vec<String>> {
    let status = model.status.clone().unwrap_or_default();
    let node = places(found, model).or(status.node);
    let context = status.context_length.map_or_else(|| NONE.to_owned(), |tokens| tokens.to_string());
    let first = vec![full_name(model), state(found, model), node.unwrap_or_else(|| NONE.to_owned()), context];
    let blank = vec![String::new(); first.len()];
    let envelope = status.envelope.unwrap_or_default();
    let row = |before: Vec<String>, name: &str, terms: [u64; 5]| {
        let terms = terms.map(|bytes| Bytes(bytes).to_string());
        before.into_iter().chain([name.to_owned()]).chain(terms).collect::<Vec<_>>()
    };
    let predicted = envelope.predicted.map(|it| {
        let terms = [it.weights_bytes, it.kv_cache_bytes, it.activations_bytes, it.runtime_bytes, it.total_bytes];
        row(first.clone(), "predicted", terms)
    });
    let measured = envelope.measured.map(|it| {
        let regions = it.weights_bytes + it.kv_cache_bytes + it.activations_bytes;
        let process = it.total_bytes.saturating_sub(regions);
        let terms = [it.weights_bytes, it.kv_cache_bytes, it.activations_bytes, process, it.total_bytes];
        row(if predicted.is_some() { blank } else { first.clone() }, "measured", terms)
    });
    let rows: Vec<_> = predicted.into_iter().chain(measured).collect();
    if rows.is_empty() { vec![first.into_iter().chain(["not known".to_owned()]).collect()] } else { rows }
}

fn why_not_ready(model: &LocalModel) -> Option<String> {
    let ready = model.status.as_ref()?.condition(ConditionType::Ready)?;
    (ready.status != "True").then(|| format!("{}: {}", ready.reason, ready.message))
}

fn full_name(model: &LocalModel) -> String {
    format!("{}/{}", model.namespace().unwrap_or_default(), model.name_any())
}

/// Columns as wide as they must be.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join(GAP).trim_end());
    }
    text
}

#[cfg(test)]
mod tests;
