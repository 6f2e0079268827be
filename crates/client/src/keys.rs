//! Walking over an object's dkeys: the groups' sorted lists, merged.

use std::collections::VecDeque;

use futures_util::{StreamExt, TryStreamExt, stream};
use types::{Key, Result};
use wire::data::Direction;

use crate::{IN_FLIGHT_MAX, Object};

/// A position in the dkeys of an object, in key order over all its groups, forwards or backwards.
///
/// Keys written or removed while it walks may or may not be met, others are met once; use a snapshot to see
/// one moment.
/// Holds at most one page of keys per group.
pub struct KeyCursor {
    object: Object,
    groups: Vec<GroupPage>,
    /// Keys asked for at once, per group.
    page: u32,
    direction: Direction,
}

struct GroupPage {
    keys: VecDeque<Key>,
    /// Where the next page begins.
    after: Option<Key>,
    more: bool,
}

impl GroupPage {
    fn is_dry(&self) -> bool {
        self.keys.is_empty() && self.more
    }
}

impl KeyCursor {
    pub(crate) fn new(object: Object, after: Option<Key>, page: u32, direction: Direction) -> Result<KeyCursor> {
        let fresh = |_| GroupPage { keys: VecDeque::new(), after: after.clone(), more: true };
        let groups = (0..object.group_count()?).map(fresh).collect();
        Ok(KeyCursor { object, groups, page, direction })
    }

    /// The next key; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Key>> {
        self.fill().await?;
        let heads = self.groups.iter().enumerate().filter_map(|(group, page)| Some((page.keys.front()?, group)));
        let first = match self.direction {
            Direction::Forward => heads.min(),
            Direction::Backward => heads.max(),
        };
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

    /// Fetches pages for every group that has none and is not at its end. A page may be empty and not the
    /// last: a target looks at so many keys at once, visible or not.
    async fn fill(&mut self) -> Result<()> {
        while self.groups.iter().any(GroupPage::is_dry) {
            self.fill_some().await?;
        }
        Ok(())
    }

    async fn fill_some(&mut self) -> Result<()> {
        let (object, limit, direction) = (&self.object, self.page, self.direction);
        let wanted: Vec<(usize, Option<Key>)> = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, page)| page.is_dry())
            .map(|(group, page)| (group, page.after.clone()))
            .collect();
        let fetch = |(group, after): (usize, Option<Key>)| async move {
            object.list_group(group, after, limit, direction).await.map(|page| (group, page))
        };
        let pages: Vec<_> = stream::iter(wanted).map(fetch).buffered(IN_FLIGHT_MAX).try_collect().await?;
        for (group, (keys, next)) in pages {
            self.groups[group] = GroupPage { keys: keys.into(), more: next.is_some(), after: next };
        }
        Ok(())
    }
}
