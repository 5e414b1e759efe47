//! Random sets of models against a real API server and a real operator that is killed again and again. Nodes, kubelets and
//! agents are played, so no pod runs; the scheduler, the volumes' controller and the garbage collector are Kubernetes' own.
//! A checker that shares no code with Kindling looks at every version of every ledger and pod that was ever written.
//!
//! `KINDLING_SETS` says how many sets (5 unless set), `KINDLING_SETS_SEED` where the seeds begin. The same seed makes the
//! same models and deeds, not the same moments.
#![allow(clippy::print_stdout, reason = "what a story sees is printed")]

mod agent;
mod api;
mod checker;
mod figures;
mod kubelet;
mod machine;
mod node;
mod operator;
mod proof;
mod publish;
mod random;
mod record;
mod set;
mod users;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::Api;
use checker::Checker;
use figures::Figures;
use kindling_e2e::{Stage, story};
use machine::World;
use operator::{Away, Program};
use random::Random;
use record::Record;
use set::{PLAYED, Set};
use tokio::task::JoinSet;

/// So many sets live beside each other.
const LANES: u64 = 3;

/// What all sets have in common.
struct Scene {
    api: Api,
    record: Record,
    world: World,
    namespace: String,
    /// Of the nodes' names.
    prefix: String,
    seed: u64,
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn no_set_of_models_is_over_committed_lost_or_left_waiting() {
    story("random-sets", |stage| {
        let (sets, seed) = (setting("KINDLING_SETS", 5), setting("KINDLING_SETS_SEED", 0));
        println!("KINDLING_SETS={sets} KINDLING_SETS_SEED={seed}");
        let _away = Away::send(stage);
        let _nodes = Nodes(stage);
        let program = Program::prepare(stage);
        let (log, folder) = (program.log(), program.folder().to_owned());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let began = Instant::now();
        let played =
            catch_unwind(AssertUnwindSafe(|| runtime.expect("a runtime").block_on(play(stage, program, sets, seed))));
        let (figures, complaints) = played.unwrap_or_else(|panic| {
            println!("---- the operator said at last, of {}:", log.display());
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            resume_unwind(panic)
        });
        println!("{figures}");
        println!("{:.0} s", began.elapsed().as_secs_f64());
        assert!(complaints.is_empty(), "{complaints:#?}\nthe operator's log is {}", log.display());
        assert_eq!(figures.over_commitments, 0);
        assert!(figures.sets == sets && figures.admissions >= sets && figures.kills > 0, "too little happened");
        std::fs::remove_dir_all(folder).expect("remove the operator's folder");
    });
}

/// Plays all sets; the answer is what happened, and what must not have.
async fn play(stage: &Stage, program: Program, sets: u64, seed: u64) -> (Figures, Vec<String>) {
    let prefix = format!("played-{}", std::process::id());
    let api = Api::connect(&stage.kubectl().kubeconfig).await;
    let record = Record::start(&api, &stage.namespace, &prefix).await;
    let (world, checker) = (World::default(), Arc::new(Mutex::new(Checker::default())));
    let scene = Scene { api, record, world, namespace: stage.namespace.clone(), prefix, seed };
    // They end with this.
    let mut others = JoinSet::new();
    let Scene { api, record, world, .. } = &scene;
    others.spawn(kubelet::play(api.clone(), record.clone(), world.clone()));
    others.spawn(operator::play(program, record.clone(), world.clone(), Random(seed ^ 0x6b69_6c6c)));
    others.spawn(check(record.clone(), world.clone(), Arc::clone(&checker)));
    let next = AtomicU64::new(0);
    tokio::select! {
        _ = futures::future::join_all((0..LANES).map(|_| lane(&scene, &next, sets))) => {}
        Some(ended) = others.join_next() => panic!("a player ended: {ended:?}"),
    }
    others.shutdown().await;
    // The last that was written has been told by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    look(record, world, &checker, true);
    let mut played = world.lock();
    let checked = checker.lock().unwrap_or_else(PoisonError::into_inner).figures.clone();
    (played.figures.clone().with(checked), std::mem::take(&mut played.complaints))
}

/// Lives one set after the other, until there are no more or something is wrong.
async fn lane(scene: &Scene, next: &AtomicU64, sets: u64) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= sets || !scene.world.lock().complaints.is_empty() {
            return;
        }
        let rest = Set::new(scene, number).await.live().await;
        let mut played = scene.world.lock();
        played.figures.longest_calm = played.figures.longest_calm.max(rest);
    }
}

/// Looks at all that was written, soon after it was.
async fn check(record: Record, world: World, checker: Arc<Mutex<Checker>>) {
    loop {
        look(&record, &world, &checker, false);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn look(record: &Record, world: &World, checker: &Mutex<Checker>, is_end: bool) {
    let mut checker = checker.lock().unwrap_or_else(PoisonError::into_inner);
    checker.look(&record.take(is_end));
    let complaints = std::mem::take(&mut checker.complaints);
    world.lock().complaints.extend(complaints);
}

/// Whatever became of the story, its nodes go, and what would wait for them.
struct Nodes<'a>(&'a Stage);

impl Drop for Nodes<'_> {
    fn drop(&mut self) {
        let namespace = self.0.namespace.as_str();
        for args in [
            &["delete", "localmodels", "--all", "-n", namespace][..],
            &["delete", "nodes", "-l", PLAYED],
            &["delete", "pods", "--all", "-n", namespace, "--force", "--grace-period=0"],
        ] {
            if let Err(error) = self.0.kubectl().try_read(args) {
                println!("kubectl {}: {error}", args.join(" "));
            }
        }
    }
}
