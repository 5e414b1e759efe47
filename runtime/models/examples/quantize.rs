//! What `kindling quantize` does, without the rest of the program: `quantize MODEL DIR search|round mixed|all`.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::time::Instant;

use kindling_kernels::nvfp4::ScaleChoice;
use kindling_models::quantize::{QuantizeRequest, Recipe, quantize};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, output, method, recipe] = args.as_slice() else {
        anyhow::bail!("usage: quantize MODEL DIR search|round mixed|all")
    };
    let scale_choice = match method.as_str() {
        "search" => ScaleChoice::Search,
        "round" => ScaleChoice::Round,
        other => anyhow::bail!("no method {other}"),
    };
    let recipe = match recipe.as_str() {
        "mixed" => Recipe::Mixed,
        "all" => Recipe::All,
        other => anyhow::bail!("no recipe {other}"),
    };
    let request = QuantizeRequest { model: model.into(), output: output.into(), scale_choice, recipe, lm_head: false };
    let started = Instant::now();
    let report = quantize(&request, &mut |_| (), &|| false)?;
    println!("{report:?} in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
