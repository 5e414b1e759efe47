//! `kindling ps`: the models of a cluster, what each was predicted to take and takes, term by term, on which node.

mod table;

use clap::ValueEnum;
use kindling_api::{LocalModel, NodeEnvelope};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::cluster::{self, Found};

/// List the models of a cluster, with their memory as predicted and as measured
///
/// Reads the cluster of the current kubeconfig: every node that an agent measures, every LocalModel.
#[derive(clap::Args)]
pub struct Args {
    /// Only models of this namespace [default: all]
    #[arg(short, long)]
    namespace: Option<String>,
    /// How the answer is printed.
    #[arg(long, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs `kindling ps`.
#[expect(clippy::print_stdout, reason = "this is the program's output")]
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = cluster::connect().await?;
    let found = cluster::read(&client, args.namespace.as_deref()).await?;
    match args.output {
        Output::Text => print!("{}", table::render(&found)),
        Output::Json => println!("{:#}", json(&found)),
    }
    Ok(())
}

/// What the ledgers say of a model: where each of its copies has memory, and how far it is.
fn held<'a>(found: &'a Found, model: &LocalModel) -> Vec<(&'a NodeEnvelope, &'a kindling_api::Reservation)> {
    let uid = model.uid().unwrap_or_default();
    let nodes = found.nodes.as_deref().unwrap_or_default();
    let all = nodes.iter().flat_map(|node| node.spec.reservations.iter().map(move |held| (node, held)));
    let mut held: Vec<_> = all.filter(|(_, held)| held.uid == uid).collect();
    held.sort_by_key(|(_, held)| held.copy);
    held
}

/// Its state in one word for each copy: of its memory, or why it has none.
fn state(found: &Found, model: &LocalModel) -> String {
    let states: Vec<String> = held(found, model).iter().map(|(_, held)| format!("{:?}", held.state)).collect();
    if !states.is_empty() {
        return states.join(", ");
    }
    let ready = model.status.as_ref().and_then(|status| status.condition(kindling_api::ConditionType::Ready));
    ready.map_or_else(|| "Unseen".to_owned(), |ready| ready.reason.clone())
}

/// Where its copies have memory.
fn places(found: &Found, model: &LocalModel) -> Option<String> {
    let names: Vec<String> = held(found, model).iter().map(|(node, _)| node.name_any()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn json(found: &Found) -> Value {
    let nodes = match &found.nodes {
        Ok(nodes) => json!(nodes.iter().map(node_json).collect::<Vec<_>>()),
        Err(_) => Value::Null,
    };
    let models = found.models.iter().map(|model| {
        let status = model.status.clone().unwrap_or_default();
        json!({
            "namespace": model.namespace(),
            "name": model.name_any(),
            "state": state(found, model),
            "node": places(found, model),
            "reservedBytes": held(found, model).iter().map(|(_, held)| held.bytes).reduce(|sum, bytes| sum + bytes),
            "copies": held(found, model).iter().map(|(node, held)| copy_json(node, held)).collect::<Vec<_>>(),
            "contextLength": status.context_length,
            "envelope": status.envelope,
            "conditions": status.conditions,
        })
    });
    json!({ "nodes": nodes, "models": models.collect::<Vec<_>>() })
}

fn copy_json(node: &NodeEnvelope, held: &kindling_api::Reservation) -> Value {
    json!({ "copy": held.copy, "node": node.name_any(), "state": held.state, "reservedBytes": held.bytes })
}

fn node_json(node: &NodeEnvelope) -> Value {
    let status = node.status.clone().unwrap_or_default();
    json!({
        "name": node.name_any(),
        "memory": status.memory,
        "measuredAt": status.measured_at,
        "pressure": status.pressure,
        "holders": status.holders,
        "reservedBytes": table::reserved(node).0,
    })
}
