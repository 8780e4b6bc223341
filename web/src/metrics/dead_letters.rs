//! How many dead letters there are. Every look is a call to the queue, and in a cloud it costs: now
//! and then is enough.

use std::{collections::BTreeMap, time::Duration};

use eirs_platform::{Result, backend::Backend};
use tokio::{sync::Mutex, time::Instant};

/// A count that is older is taken again at the next scrape.
const FRESH: Duration = Duration::from_secs(30);
/// A scrape waits no longer than this for all the counts together; what is not known by then is
/// left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// Counts them.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    backend: Backend,
    models: Vec<String>,
    counted: Mutex<Option<(Instant, BTreeMap<String, u64>)>>,
}

impl DeadLetters {
    pub(crate) fn new(backend: Backend, models: impl IntoIterator<Item = String>) -> Self {
        Self { backend, models: models.into_iter().collect(), counted: Mutex::default() }
    }

    /// The letters of each model, where they can be counted.
    pub(crate) async fn count(&self) -> BTreeMap<String, u64> {
        let mut counted = self.counted.lock().await;
        match &*counted {
            Some((at, letters)) if at.elapsed() < FRESH => letters.clone(),
            _ => {
                let letters = self.look().await;
                *counted = Some((Instant::now(), letters.clone()));
                letters
            }
        }
    }

    async fn look(&self) -> BTreeMap<String, u64> {
        let until = Instant::now() + PATIENCE;
        let looks = self.models.iter().map(|model| async move {
            let letters = tokio::time::timeout_at(until, self.letters(model)).await.ok()?.ok()?;
            Some((model.clone(), letters))
        });
        futures::future::join_all(looks).await.into_iter().flatten().collect()
    }

    async fn letters(&self, model: &str) -> Result<u64> {
        Ok(self.backend.dead_letters(model).await?.depth().await?.backlog())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eirs_platform::{clock::SystemClock, settings::Settings};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn letters_are_counted_for_each_model_and_looked_at_every_half_minute_only() {
        let backend = Backend::in_memory(&Settings::default(), Arc::new(SystemClock));
        let letters = DeadLetters::new(backend.clone(), ["a".to_owned(), "b".to_owned()]);
        let dead = backend.dead_letters("b").await.unwrap();
        dead.send(vec!["x".into(), "y".into()]).await.unwrap();
        let expected = |b| BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), b)]);
        assert_eq!(letters.count().await, expected(2));
        dead.send(vec!["z".into()]).await.unwrap();
        assert_eq!(letters.count().await, expected(2));
        tokio::time::advance(FRESH).await;
        assert_eq!(letters.count().await, expected(3));
    }
}
