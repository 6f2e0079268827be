//! From a place in a container to its file system.

use client::Container;
use dfs::{Dfs, DfsOptions};
use types::{ByteSize, Code, Error, Layout};
use wire::control::ContainerInfo;

use crate::failure::Result;
use crate::place::DaosPath;
use crate::session::{Session, snapshot_error};

/// The file system of the container that `place` names, as it is now or as a snapshot keeps it.
pub(crate) async fn mount(session: &Session, place: &DaosPath, snapshot: Option<&str>) -> Result<Dfs> {
    let container = session.container(&place.pool, &place.container).await?;
    let layout = container.info().await?.layout;
    if layout != Layout::Posix {
        let text = format!("container '{}' is of type {layout}, and has no files", container.label());
        let remedy = format!("create one with `daos container create {} LABEL --type POSIX`", place.pool);
        return Err(Error::new(Code::Invalid, text).remedy(remedy).into());
    }
    let container = match snapshot {
        None => container,
        Some(name) => match container.at_snapshot(name).await {
            Ok(view) => view,
            Err(error) => return Err(snapshot_error(&container, error, name).await),
        },
    };
    Ok(Dfs::mount(container).await.map_err(Error::from)?)
}

/// Makes the file system of a new POSIX container, as its properties say.
pub(crate) async fn format(container: Container, info: &ContainerInfo) -> Result<Dfs> {
    let property = |name: &str| info.properties.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value);
    let mut options = DfsOptions {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        ..DfsOptions::default()
    };
    if let Ok(ByteSize(bytes)) = property("chunk_size").parse() {
        options.chunk_bytes = bytes;
    }
    if let Ok(class) = property("oclass").parse() {
        options.file_class = class;
        options.small_file_class = class;
    }
    Ok(Dfs::format(container, &options).await.map_err(Error::from)?)
}
