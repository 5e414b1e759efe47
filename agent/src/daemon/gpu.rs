//! The node's GPU: looked at when the agent starts, and seldom after that. Whoever looks knows drivers; this knows when.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kindling_api::NodeGpu;
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Drivers come and go with the node's administrator, not with models.
const PERIOD: Duration = Duration::from_secs(600);
/// One that could be used is only believed to be gone when it is still gone after these pauses: models are moved for it.
const DOUBTS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(20)];

/// Looks at the GPU.
pub trait ReadGpu: Send + Sync {
    /// What is there now, within a bounded time.
    fn read(&self) -> BoxFuture<'_, NodeGpu>;
}

/// Begins to look; ends with the token. What is found is nothing before the first look.
pub fn start(
    reader: Arc<dyn ReadGpu>,
    shutdown: CancellationToken,
) -> (JoinHandle<()>, channel::Receiver<Option<NodeGpu>>) {
    let (sender, receiver) = channel::channel(None);
    (tokio::spawn(watch(reader, sender, shutdown)), receiver)
}

async fn watch(reader: Arc<dyn ReadGpu>, sender: channel::Sender<Option<NodeGpu>>, shutdown: CancellationToken) {
    let work = async {
        loop {
            let before = sender.borrow().clone();
            let found = look(reader.as_ref(), before.as_ref()).await;
            if before.as_ref() != Some(&found) {
                tracing::info!(?found, "the GPU");
                // Nobody listens any more only while the agent ends.
                let _ = sender.send(Some(found));
            }
            tokio::time::sleep(PERIOD).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

async fn look(reader: &dyn ReadGpu, before: Option<&NodeGpu>) -> NodeGpu {
    let was_usable = before.is_some_and(|before| before.usable);
    let mut found = reader.read().await;
    for pause in DOUBTS {
        if !was_usable || found.usable {
            break;
        }
        tracing::warn!(reason = found.reason, "the GPU could be used before, and can't be now");
        tokio::time::sleep(pause).await;
        found = reader.read().await;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;

    struct Played(Mutex<VecDeque<bool>>);

    impl ReadGpu for Played {
        fn read(&self) -> BoxFuture<'_, NodeGpu> {
            let usable = self.0.lock().unwrap().pop_front().expect("nobody should look so often");
            Box::pin(async move { gpu(usable) })
        }
    }

    fn gpu(usable: bool) -> NodeGpu {
        NodeGpu { usable, ..NodeGpu::default() }
    }

    async fn looked(before: Option<bool>, looks: &[bool]) -> (bool, usize) {
        let played = Played(Mutex::new(looks.iter().copied().collect()));
        let found = look(&played, before.map(gpu).as_ref()).await;
        let left = played.0.lock().unwrap().len();
        (found.usable, left)
    }

    #[tokio::test(start_paused = true)]
    async fn a_gpu_that_was_usable_is_not_given_up_for_one_bad_look() {
        assert_eq!(looked(Some(true), &[false, true]).await, (true, 0));
        assert_eq!(looked(Some(true), &[false, false, false]).await, (false, 0));
        assert_eq!(looked(Some(true), &[true, false]).await, (true, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_was_usable_is_looked_at_once() {
        assert_eq!(looked(None, &[false, true]).await, (false, 1));
        assert_eq!(looked(Some(false), &[true, false]).await, (true, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_is_sent_and_looked_at_again_after_a_while() {
        let played = Arc::new(Played(Mutex::new([false, true].into())));
        let stop = CancellationToken::new();
        let (watching, mut receiver) = start(played, stop.clone());
        for expected in [false, true] {
            receiver.changed().await.unwrap();
            assert_eq!(*receiver.borrow_and_update(), Some(gpu(expected)));
        }
        stop.cancel();
        watching.await.unwrap();
    }
}
