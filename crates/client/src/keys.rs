//! Walking over an object's dkeys: the groups' sorted lists, merged.

use std::collections::VecDeque;

use futures_util::{StreamExt, TryStreamExt, stream};
use types::{Key, Result};

use crate::{IN_FLIGHT_MAX, Object};

/// A position in the dkeys of an object, in key order over all its groups.
///
/// Keys written or removed while it walks may or may not be met; use a snapshot to see one moment.
/// Holds at most one page of keys per group.
pub struct KeyCursor {
    object: Object,
    groups: Vec<GroupPage>,
    /// Keys asked for at once, per group.
    page: u32,
}

struct GroupPage {
    keys: VecDeque<Key>,
    /// The last key asked for so far.
    after: Option<Key>,
    more: bool,
}

impl KeyCursor {
    pub(crate) fn new(object: Object, after: Option<Key>, page: u32) -> Result<KeyCursor> {
        let fresh = |_| GroupPage { keys: VecDeque::new(), after: after.clone(), more: true };
        let groups = (0..object.group_count()?).map(fresh).collect();
        Ok(KeyCursor { object, groups, page })
    }

    /// The next key; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Key>> {
        self.fill().await?;
        let first = self.groups.iter().enumerate().filter_map(|(group, page)| Some((page.keys.front()?, group))).min();
        let Some((_, group)) = first else { return Ok(None) };
        Ok(self.groups[group].keys.pop_front())
    }

    /// Up to `limit` keys; fewer only at the end.
    pub async fn next_page(&mut self, limit: usize) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        while keys.len() < limit {
            match self.next().await? {
                Some(key) => keys.push(key),
                None => break,
            }
        }
        Ok(keys)
    }

    /// All that are left.
    pub async fn collect(mut self) -> Result<Vec<Key>> {
        self.next_page(usize::MAX).await
    }

    /// Fetches a page for every group that has none and is not at its end.
    async fn fill(&mut self) -> Result<()> {
        let dry = |page: &GroupPage| page.keys.is_empty() && page.more;
        if !self.groups.iter().any(dry) {
            return Ok(());
        }
        let (object, limit) = (&self.object, self.page);
        let wanted: Vec<(usize, Option<Key>)> = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, page)| dry(page))
            .map(|(group, page)| (group, page.after.clone()))
            .collect();
        let fetch = |(group, after): (usize, Option<Key>)| async move {
            object.list_group(group, after, limit).await.map(|page| (group, page))
        };
        let pages: Vec<_> = stream::iter(wanted).map(fetch).buffered(IN_FLIGHT_MAX).try_collect().await?;
        for (group, (keys, more)) in pages {
            let page = &mut self.groups[group];
            // An empty page that promises more would be asked for again for ever.
            page.more = more && !keys.is_empty();
            page.after = keys.last().cloned().or(page.after.take());
            page.keys = keys.into();
        }
        Ok(())
    }
}
