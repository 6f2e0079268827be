//! Opens a system inside this process, writes, takes a snapshot, changes, and reads both versions.
//!
//! ```text
//! cargo run --release -p daos --example hello [DIRECTORY]
//! ```

use daos::{Code, ContainerSpec, EmbeddedOptions, ObjectType, System};

fn main() {
    let path = std::env::args().nth(1).unwrap_or_else(|| "./daos-hello".into());
    if let Err(error) = daos::block_on(hello(&path)) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

async fn hello(path: &str) -> daos::Result<()> {
    // Without a size it takes half of what is free on the disk.
    let system = System::embedded_with(path, EmbeddedOptions { bytes: Some(2 << 30), ..Default::default() }).await?;

    // The second run finds what the first one made.
    unless_there(system.create_pool("tank", 1 << 30, vec![]).await)?;
    let pool = system.pool("tank").await?;
    unless_there(pool.create_container(ContainerSpec::labelled("greetings")).await)?;
    let container = pool.container("greetings").await?;

    let store = container.kv(container.new_object(ObjectType::KvHashed, None).await?);
    store.put("world", b"hello").await?;
    let snapshot = container.create_snapshot(None).await?;
    store.put("world", b"goodbye").await?;

    let before = container.at(snapshot.epoch).kv(store.object().id());
    for (when, store) in [("before", &before), ("now", &store)] {
        let value = store.get("world").await?.unwrap_or_default();
        println!("{when}: {}", String::from_utf8_lossy(&value));
    }
    let info = pool.info().await?;
    println!("pool 'tank' on {} targets, {} of {} bytes used", info.targets, info.space.used, info.space.total);
    system.shutdown().await
}

fn unless_there<T>(made: daos::Result<T>) -> daos::Result<()> {
    match made {
        Err(error) if error.code != Code::Exists => Err(error),
        _ => Ok(()),
    }
}
