//! Timings of the kernels on a GPU, beside what its memory gives in the same run: single layers, attention over long
//! contexts, experts, and decoding steps of a whole model, all with random weights. `--small` runs everything in sizes that
//! the stand-in can compute, to see that it works: its figures mean nothing.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "this is a program for developers")]

#[path = "../../kernels/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::time::Instant;

use common::llama::Llama;
use common::op_plans::attention;
use common::plans::PlanBuilder;
use common::{MemoryWeights, Part, limits, limits_of_rows, rows_step, step, with_blocks};
use kindling_cuda::{CudaBackend, OpTime, OpTimes, probe};
use kindling_kernels::{
    Activation, Backend, CacheGroupKind, DType, ExpertWeights, Limits, Op, Plan, RouteRule, Rows, Step, StepSequence,
};

const RUNS: usize = 9;
const WARM_UP: usize = 3;
const MIB: f64 = 1024.0 * 1024.0;

struct Bench {
    is_small: bool,
    /// Bytes per second that reading gives.
    bandwidth: f64,
}

fn main() {
    let is_small = std::env::args().any(|argument| argument == "--small");
    let gpu = probe().unwrap_or_else(|error| panic!("{error}")).remove(0);
    println!(
        "{}: compute capability {}.{}, CUDA {}.{}",
        gpu.name, gpu.compute.0, gpu.compute.1, gpu.driver.0, gpu.driver.1
    );
    let num_bytes = if is_small { 1 << 20 } else { 1 << 30 };
    let mut found = gpu.load().unwrap().read_bandwidth(num_bytes, RUNS).unwrap();
    let bandwidth = median(&mut found);
    println!(
        "read bandwidth: {:.1} GB/s ({:.1} to {:.1}), {:.0} MiB at a time",
        bandwidth / 1e9,
        found[0] / 1e9,
        found[found.len() - 1] / 1e9,
        num_bytes as f64 / MIB
    );
    let bench = Bench { is_small, bandwidth };
    bench.linears();
    bench.attentions();
    bench.experts();
    bench.decoding();
}

/// The middle one; they are in order after that.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `rows` sequences that each bring one token after so many.
fn decode_step(rows: usize, context_len: usize, (num_groups, blocks_each): (usize, usize)) -> Step {
    let sequence = |index: usize| StepSequence {
        query_start: index,
        query_len: 1,
        context_len,
        block_tables: vec![((index * blocks_each) as u32..((index + 1) * blocks_each) as u32).collect(); num_groups],
    };
    Step {
        token_ids: (0..rows as u32).collect(),
        positions: vec![[context_len as u32; 3]; rows],
        sequences: (0..rows).map(sequence).collect(),
        logit_indices: (0..rows).collect(),
        ..Step::default()
    }
}

impl Bench {
    /// Times of a step by op, and by the clock, run by run.
    fn measure(
        &self,
        model: &(Plan, MemoryWeights),
        limits: &Limits,
        step: &Step,
    ) -> (Vec<BTreeMap<String, OpTime>>, Vec<f64>) {
        let times = OpTimes::default();
        let gpu = probe().unwrap().remove(0);
        let backend = CudaBackend::on(gpu.load().unwrap()).timed(&times);
        let limits = with_blocks(limits, &model.0);
        let mut prepared = backend.prepare(&model.0, &model.1, &limits, &mut |_| {}).unwrap();
        let (mut all, mut clock, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        let runs = if self.is_small { 1 } else { RUNS };
        for run in 0..WARM_UP.min(runs) + runs {
            let start = Instant::now();
            prepared.execute(step, &mut logits).unwrap();
            let seconds = start.elapsed().as_secs_f64();
            let taken = times.take();
            if run >= WARM_UP.min(runs) {
                all.push(taken);
                clock.push(seconds);
            }
        }
        (all, clock)
    }

    /// One line: the middle of all runs, beside what the memory gives.
    fn line(&self, what: &str, seconds: &mut [f64], num_bytes: f64) {
        let middle = median(seconds);
        let (least, most) = (seconds[0], seconds[seconds.len() - 1]);
        let share = num_bytes / middle / self.bandwidth * 100.0;
        println!(
            "{what}: {:.1} us ({:.1} to {:.1}), {:.1} MB, {:.1} GB/s, {share:.0} % of reading",
            middle * 1e6,
            least * 1e6,
            most * 1e6,
            num_bytes / 1e6,
            num_bytes / middle / 1e9
        );
    }

    /// The same by what is multiplied.
    fn line_of_products(&self, what: &str, seconds: &mut [f64], num_products: usize) {
        let middle = median(seconds);
        let (least, most) = (seconds[0], seconds[seconds.len() - 1]);
        let rate = 2.0 * num_products as f64 / middle / 1e12;
        println!("{what}: {:.1} us ({:.1} to {:.1}), {rate:.1} TFLOP/s", middle * 1e6, least * 1e6, most * 1e6);
    }

    /// Tokens of a step that computes a prompt.
    const fn prompt(&self) -> usize {
        if self.is_small { 70 } else { 512 }
    }

    /// Matrices that no cache holds: several of them, one after another.
    fn linears(&self) {
        let sizes: &[(usize, usize)] =
            if self.is_small { &[(64, 128)] } else { &[(28672, 4096), (4096, 4096), (4096, 14336)] };
        for dtype in [DType::NVFP4, DType::MXFP4, DType::Q4_1, DType::F8E4M3, DType::BF16] {
            for (features, row_len) in sizes {
                let of_one = dtype.bytes_for(features * row_len).unwrap();
                let copies = if self.is_small { 2 } else { (400 << 20) / of_one + 1 };
                let mut builder = PlanBuilder::new(*features);
                let table = builder.weight(DType::BF16, &[*features, *row_len], 1.0);
                let input = builder.buffer(*row_len, Rows::Tokens);
                builder.plan.ops.push(Op::EmbedTokens { weight: table, output: input });
                let output = builder.buffer(*features, Rows::Tokens);
                for _ in 0..copies {
                    let weight = builder.weight(dtype, &[*features, *row_len], 0.1);
                    builder.plan.ops.push(Op::Linear { input, weight, bias: None, output });
                }
                let model = builder.finish(output);
                for rows in [1, 8, 32, self.prompt()] {
                    let (times, _) = self.measure(&model, &limits_of_rows(rows), &rows_step(rows, *features, 0));
                    let linear = |times: &BTreeMap<String, OpTime>| {
                        times.iter().find(|(name, _)| name.starts_with("linear")).map(|(_, time)| *time).unwrap()
                    };
                    let mut seconds: Vec<f64> =
                        times.iter().map(|times| linear(times).seconds / copies as f64).collect();
                    let num_bytes = linear(&times[0]).weight_bytes as f64 / copies as f64;
                    let what = format!("linear {dtype} {features} x {row_len}, {rows} rows");
                    if rows == self.prompt() {
                        self.line_of_products(&what, &mut seconds, rows * features * row_len);
                    } else {
                        self.line(&what, &mut seconds, num_bytes);
                    }
                }
            }
        }
    }

    fn attentions(&self) {
        let (context, rows) = if self.is_small { (608, 2) } else { (32768, 8) };
        for heads in [(32, 8, 128), (64, 8, 64)] {
            let model = attention(heads, CacheGroupKind::Full);
            let blocks_each = context / 16;
            let limits =
                Limits { max_context: context, max_sequences: rows, num_blocks: vec![rows * blocks_each], ..limits() };
            let (times, _) = self.measure(&model, &limits, &decode_step(rows, context - 1, (1, blocks_each)));
            let mut seconds: Vec<f64> = times.iter().map(|times| times["paged_attention"].seconds).collect();
            let num_bytes = (2 * rows * context * heads.1 * heads.2 * 2) as f64;
            self.line(&format!("attention {heads:?}, {rows} x {context} tokens, bf16"), &mut seconds, num_bytes);
            self.prompt_attention(heads, context / 64 * 16);
        }
    }

    /// The last tokens of a prompt.
    fn prompt_attention(&self, heads: (usize, usize, usize), context: usize) {
        let rows = self.prompt();
        let model = attention(heads, CacheGroupKind::Full);
        let limits = Limits { max_context: context, num_blocks: vec![context / 16], ..limits_of_rows(rows) };
        let tokens: Vec<u32> = (0..rows).map(|row| (row % model.0.vocab_size) as u32).collect();
        let blocks: Vec<u32> = (0..(context / 16) as u32).collect();
        let part = Part { tokens: &tokens, context_len: context - rows, blocks: &blocks };
        let (times, _) = self.measure(&model, &limits, &step(&[part], 1));
        let mut seconds: Vec<f64> = times.iter().map(|times| times["paged_attention"].seconds).collect();
        let num_products = 2 * heads.0 * heads.2 * rows * (context - rows / 2);
        self.line_of_products(
            &format!("attention {heads:?}, {rows} tokens after {}, bf16", context - rows),
            &mut seconds,
            num_products,
        );
    }

    /// The shapes of gpt-oss-20b and of Qwen3-30B-A3B, of one layer each.
    fn experts(&self) {
        let shapes =
            [("gpt-oss-20b", DType::MXFP4, 32, 4, 2880, 2880), ("Qwen3-30B-A3B", DType::NVFP4, 128, 8, 2048, 768)];
        for (name, dtype, num_experts, top_k, hidden, inner) in shapes {
            let (hidden, inner, layers) = if self.is_small { (64, 64, 1) } else { (hidden, inner, 4) };
            let mut builder = PlanBuilder::new(hidden);
            let (input, logits) = (builder.input(hidden), builder.input(num_experts));
            let (routes, output) = (builder.buffer(num_experts, Rows::Tokens), builder.buffer(hidden, Rows::Tokens));
            builder.plan.ops.push(Op::MoeRoute { logits, rule: RouteRule::TopKSoftmax, top_k, output: routes });
            for _ in 0..layers {
                let [gate, up] = [(); 2].map(|()| builder.weight(dtype, &[num_experts, inner, hidden], 0.1));
                let down = builder.weight(dtype, &[num_experts, hidden, inner], 0.1);
                let experts = ExpertWeights { gate, up, down, gate_bias: None, up_bias: None, down_bias: None };
                builder.plan.ops.push(Op::MoeExperts {
                    input,
                    routes,
                    experts,
                    activation: Activation::Silu,
                    top_k,
                    output,
                });
            }
            let model = builder.finish(output);
            let of_one = dtype.bytes_for(3 * inner * hidden).unwrap();
            for rows in [1, 8, 32, self.prompt()] {
                let step = rows_step(rows, hidden, 0);
                let (times, _) = self.measure(&model, &limits_of_rows(rows), &step);
                let mut seconds: Vec<f64> =
                    times.iter().map(|times| times["moe_experts"].seconds / f64::from(layers)).collect();
                if rows == self.prompt() {
                    let num_products = 3 * hidden * inner * top_k * rows;
                    self.line_of_products(&format!("experts of {name}, {rows} rows"), &mut seconds, num_products);
                    continue;
                }
                // Of more rows than experts, each is read once.
                let num_bytes = (of_one * (top_k * rows).min(num_experts)) as f64;
                self.line(&format!("experts of {name}, {rows} rows"), &mut seconds, num_bytes);
            }
        }
    }

    /// Llama 3.1 8B in NVFP4, with its output matrix in BF16.
    fn decoding(&self) {
        let large = Llama {
            num_layers: 32,
            hidden_size: 4096,
            intermediate_size: 14336,
            num_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            vocab_size: 128_256,
            dtype: DType::NVFP4,
            embedding: DType::BF16,
            kind: CacheGroupKind::Full,
        };
        let small = Llama { embedding: DType::BF16, dtype: DType::NVFP4, ..common::llama::TINY };
        let model = if self.is_small { small.build() } else { large.build() };
        for rows in [1, 8] {
            let limits = Limits { num_blocks: vec![rows * 16], ..limits() };
            let (times, mut clock) = self.measure(&model, &limits, &decode_step(rows, 127, (1, 16)));
            let mut device: Vec<f64> =
                times.iter().map(|times| times.values().map(|time| time.seconds).sum()).collect();
            let num_bytes = times[0].values().map(|time| time.weight_bytes).sum::<u64>() as f64;
            self.line(&format!("llama 8B step, {rows} rows, on the device"), &mut device, num_bytes);
            self.line(&format!("llama 8B step, {rows} rows, by the clock"), &mut clock, num_bytes);
            for (name, time) in &times[0] {
                println!("    {name}: {} times, {:.1} us", time.count, time.seconds * 1e6);
            }
        }
    }
}
