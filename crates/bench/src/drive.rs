//! Clients of servers that do one thing over and over, each waiting for its answer before it asks again.

use anyhow::{Context, Result};
use client::Kv;

use crate::measure::{Chance, key};

/// Puts `count` values under random-looking keys, the same every time; operations a second.
pub async fn put(kv: &Kv, bytes: usize, depth: usize, count: usize) -> Result<f64> {
    let mut value = vec![0; bytes];
    Chance::new(3).fill(&mut value);
    in_tasks(depth, count, |task, share| {
        let (kv, value) = (kv.clone(), value.clone());
        async move {
            for n in 0..share {
                kv.put(&key(task + n * depth), &value).await?;
            }
            anyhow::Ok(())
        }
    })
    .await
}

/// Gets what [`put`] with the same numbers put, and looks at its size; operations a second.
pub async fn get(kv: &Kv, bytes: usize, depth: usize, count: usize) -> Result<f64> {
    in_tasks(depth, count, |task, share| {
        let kv = kv.clone();
        async move {
            for n in 0..share {
                let value = kv.get(&key(task + n * depth)).await?.context("a key that was put is not there")?;
                anyhow::ensure!(value.len() == bytes, "a value came back with {} bytes", value.len());
            }
            anyhow::Ok(())
        }
    })
    .await
}

/// Runs `depth` tasks that share `count` operations; operations a second.
pub async fn in_tasks<F>(depth: usize, count: usize, mut task: impl FnMut(usize, usize) -> F) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let start = std::time::Instant::now();
    let tasks: Vec<_> =
        (0..depth).map(|n| rt::spawn(task(n, count / depth + usize::from(n < count % depth)))).collect();
    for task in tasks {
        task.await.context("a task ended early")??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
