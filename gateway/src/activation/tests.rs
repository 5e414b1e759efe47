use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::discovery::{Availability, Discovery, Route, StaticRoutes};

#[derive(Default)]
struct Counts {
    writes: AtomicUsize,
    ages: Mutex<Vec<Duration>>,
}

impl UseWriter for Counts {
    fn write(&self, _: OnDemand, age: Duration) -> BoxFuture<'_, ()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        lock(&self.ages).push(age);
        Box::pin(async {})
    }
}

fn route(can_come: bool) -> Route {
    let on_demand = OnDemand { namespace: "models".into(), name: "llama".into(), uid: "1".into(), can_come };
    Route {
        name: "llama".into(),
        namespace: Some("models".into()),
        aliases: Vec::new(),
        created: 0,
        availability: Availability::Unavailable { message: "no request waits for it (Idle)".into(), retry_after: None },
        backend: None,
        on_demand: Some(on_demand),
    }
}

struct Stage {
    list: StaticRoutes,
    routes: Routes,
    counts: Arc<Counts>,
    activation: Activation,
}

fn stage(can_come: bool, max_held: usize) -> Stage {
    let list = StaticRoutes::new(vec![route(can_come)]);
    let counts = Arc::new(Counts::default());
    let activation = Activation::new(Some(Arc::<Counts>::clone(&counts)), max_held, Duration::from_secs(60));
    Stage { routes: Routes::follow(Discovery::Static(list.clone())), list, counts, activation }
}

impl Stage {
    fn begin(&self) -> InUse {
        self.activation.begin(&self.routes.table().resolve("llama").unwrap()).unwrap()
    }

    fn make_ready(&self) {
        self.list.update(|routes| {
            routes[0].availability = Availability::Ready;
            routes[0].backend = Some(Backend::at("127.0.0.1:1").unwrap());
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_told_at_once_and_waits_until_the_model_is_there() {
    let stage = stage(true, 4);
    let in_use = stage.begin();
    let backend = stage.activation.backend(&stage.routes, "llama", Some(&in_use));
    tokio::pin!(backend);
    tokio::select! {
        _ = &mut backend => panic!("nothing is there yet"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    assert_eq!(stage.counts.writes.load(Ordering::Relaxed), 1, "said at once");
    stage.make_ready();
    assert!(backend.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_use_is_renewed_while_it_lasts_and_not_afterwards() {
    let stage = stage(true, 4);
    let in_use = stage.begin();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let writes = stage.counts.writes.load(Ordering::Relaxed);
    assert_eq!(writes, 4, "at once, and after 3, 6 and 9 seconds");
    assert!(lock(&stage.counts.ages).windows(2).all(|ages| ages[0] < ages[1]), "it has been used since the beginning");
    drop(in_use);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(stage.counts.writes.load(Ordering::Relaxed), writes);
    let _again = stage.begin();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let last = *lock(&stage.counts.ages).last().unwrap();
    assert!(last < Duration::from_secs(1), "wanted anew: {last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_held_for_long_is_told_to_try_again() {
    let stage = stage(true, 4);
    let in_use = stage.begin();
    let started = Instant::now();
    let error = stage.activation.backend(&stage.routes, "llama", Some(&in_use)).await.err().unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(60));
    assert_eq!(error.kind, ErrorKind::ModelUnavailable);
    assert!(error.message.contains("no request waits for it (Idle)"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn no_more_are_held_than_there_is_room_for() {
    let stage = stage(true, 1);
    let (first, second) = (stage.begin(), stage.begin());
    let held = stage.activation.backend(&stage.routes, "llama", Some(&first));
    tokio::pin!(held);
    tokio::select! {
        _ = &mut held => panic!("nothing is there yet"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    let error = stage.activation.backend(&stage.routes, "llama", Some(&second)).await.err().unwrap();
    assert_eq!(error.message, "the model 'llama' is being loaded, and 1 requests wait for it already");
    stage.make_ready();
    assert!(held.await.is_ok());
    assert!(stage.activation.backend(&stage.routes, "llama", Some(&second)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_cannot_come() {
    let stage = stage(false, 4);
    let in_use = stage.begin();
    let started = Instant::now();
    assert!(stage.activation.backend(&stage.routes, "llama", Some(&in_use)).await.is_err());
    assert_eq!(started.elapsed(), Duration::ZERO);
}
