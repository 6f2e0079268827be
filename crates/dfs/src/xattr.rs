//! Extended attributes of an entry.

use std::path::Path;

use bytes::Bytes;

use crate::create::check_xattr;
use crate::dir::{Dir, Follow, bytes_of};
use crate::entry::{AKEYS_MAX, XATTRS_MAX, inode_akey, xattr_akey, xattr_name, xattr_of, xattr_value};
use crate::error::{At, Reason, Result};
use crate::inode::{Patch, Timestamp};
use crate::store::{Read, Write};

/// Whether an attribute may, must not or must be there before it is set: the flags of `setxattr(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    Any,
    Create,
    Replace,
}

impl Dir {
    /// Sets the attribute `name` of the entry at `path`.
    ///
    /// # Errors
    /// `Exists` or `NoAttribute` as `how` demands; `AttributeTooBig`, `AttributeCount`.
    pub async fn set_xattr(
        &self,
        path: impl AsRef<Path>,
        follow: Follow,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        how: SetXattr,
    ) -> Result<()> {
        let (path, name, value) = (bytes_of(path.as_ref()), name.as_ref(), value.as_ref());
        let set = async {
            self.mount.writable()?;
            check_xattr(name, value)?;
            let found = self.find(path, follow).await?;
            let (spot, owner) = (found.spot(), found.inode.oid);
            let _held = self.mount.locks.take(&[], &[(spot.directory, spot.name)]).await;
            let akeys = self.mount.store.list_akeys(spot.directory, &spot.dkey(), AKEYS_MAX).await?;
            let akey = xattr_akey(name);
            let there = match akeys.contains(&akey) {
                false => None,
                true => {
                    let read = vec![(akey.clone(), Read::Single)];
                    let stored = self.mount.store.fetch(spot.directory, &spot.dkey(), read).await?;
                    stored[0].as_ref().and_then(|stored| xattr_of(owner, stored))
                }
            };
            match (there.is_some(), how) {
                (true, SetXattr::Create) => return Err(Reason::Exists),
                (false, SetXattr::Replace) => return Err(Reason::NoAttribute),
                (false, _) if akeys.iter().filter(|akey| xattr_name(akey).is_some()).count() >= XATTRS_MAX => {
                    return Err(Reason::AttributeCount(XATTRS_MAX));
                }
                _ => {}
            }
            let touched = Patch::default().ctime(Timestamp::now()).has_xattrs();
            let writes = vec![(inode_akey(), Write::from(touched)), (akey, Write::Single(xattr_value(owner, value)))];
            self.mount.update_existing(spot, writes).await
        };
        set.await.at(path)
    }

    /// The value of the attribute `name`.
    pub async fn get_xattr(&self, path: impl AsRef<Path>, follow: Follow, name: impl AsRef<[u8]>) -> Result<Bytes> {
        let (path, name) = (bytes_of(path.as_ref()), name.as_ref());
        let get = async {
            check_xattr(name, &[])?;
            let found = self.find(path, follow).await?;
            let spot = found.spot();
            let read = vec![(xattr_akey(name), Read::Single)];
            let stored = self.mount.store.fetch(spot.directory, &spot.dkey(), read).await?;
            stored[0].as_ref().and_then(|stored| xattr_of(found.inode.oid, stored)).ok_or(Reason::NoAttribute)
        };
        get.await.at(path)
    }

    /// All attributes, in the order of their names.
    pub async fn xattrs(&self, path: impl AsRef<Path>, follow: Follow) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let path = bytes_of(path.as_ref());
        let list = async {
            let found = self.find(path, follow).await?;
            let whole = self.mount.whole(found.spot()).await?.ok_or(Reason::NotFound)?;
            let mut xattrs: Vec<_> = whole.xattrs.into_iter().map(|(name, value)| (name.into_vec(), value)).collect();
            xattrs.sort();
            Ok(xattrs)
        };
        list.await.map_err(|reason: Reason| reason.at(path))
    }

    /// The names of all attributes, in order.
    pub async fn list_xattrs(&self, path: impl AsRef<Path>, follow: Follow) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs(path, follow).await?.into_iter().map(|(name, _)| name).collect())
    }

    pub async fn remove_xattr(&self, path: impl AsRef<Path>, follow: Follow, name: impl AsRef<[u8]>) -> Result<()> {
        let (path, name) = (bytes_of(path.as_ref()), name.as_ref());
        let remove = async {
            self.mount.writable()?;
            check_xattr(name, &[])?;
            let found = self.find(path, follow).await?;
            let spot = found.spot();
            let _held = self.mount.locks.take(&[], &[(spot.directory, spot.name)]).await;
            let akey = xattr_akey(name);
            let read = vec![(akey.clone(), Read::Single)];
            let stored = self.mount.store.fetch(spot.directory, &spot.dkey(), read).await?;
            if stored[0].as_ref().and_then(|stored| xattr_of(found.inode.oid, stored)).is_none() {
                return Err(Reason::NoAttribute);
            }
            self.mount.store.punch_akeys(spot.directory, &spot.dkey(), vec![akey]).await?;
            self.mount.patch(spot, Patch::default().ctime(Timestamp::now())).await
        };
        remove.await.at(path)
    }
}
