//! The number of dead letters. Counting is a call to the queue, which costs money in a cloud, so
//! the result is cached.

use std::{collections::BTreeMap, time::Duration};

use eirs_platform::{Result, backend::Backend};
use tokio::{sync::Mutex, time::Instant};

/// Maximum age of a count before it is taken again.
const FRESH: Duration = Duration::from_secs(30);
/// Maximum time that a scrape waits for all counts together; missing ones are left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// Counts dead letters and caches the result.
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

    /// Returns the number of dead letters of each model, as far as they can be counted.
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
    async fn dead_letters_are_counted_per_model_and_at_most_every_half_minute() {
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
