//! A device's tree of mappings in the making: its levels, from the leaves up.

use super::blocks::Blocks;
use super::content::{Child, Content};
use super::level::{FEWEST, Level, Out, Until};
use super::nodes::Fresh;
use crate::error::Result;
use crate::units::BlockNr;

pub(super) struct Tree {
    levels: Vec<Level>,
    /// Nodes written for it.
    fresh: Vec<Fresh>,
    /// Of a part: its leaves, which have nothing above them.
    leaves: Option<Vec<Child>>,
    /// Nodes on their way up.
    children: Vec<Child>,
}

impl Tree {
    pub fn new() -> Self {
        Self {
            levels: vec![Level::new(0, false)],
            fresh: Vec::new(),
            leaves: None,
            children: Vec::new(),
        }
    }

    /// Leaves alone, which nobody refers to yet.
    pub fn of_part() -> Self {
        Self {
            levels: vec![Level::new(0, true)],
            leaves: Some(Vec::new()),
            ..Self::new()
        }
    }

    /// Mappings that may be added before [`Self::settle`].
    pub fn room(&self) -> u64 {
        self.levels[0].room() as u64
    }

    pub fn push(&mut self, mappings: impl Iterator<Item = (u64, u64)> + Clone) {
        self.levels[0].push(mappings);
    }

    /// Makes nodes of what waits.
    pub fn settle(&mut self, blocks: &mut Blocks, content: &mut Content) -> Result<()> {
        self.settle_level(0, Until::Ahead, blocks, content)?;
        self.settle_above(blocks, content)
    }

    fn settle_level(
        &mut self,
        level: usize,
        until: Until,
        blocks: &mut Blocks,
        content: &mut Content,
    ) -> Result<()> {
        let (own, mut out) = self.level(level, blocks, content);
        own.settle(&mut out, until)?;
        self.pass_up(level);
        Ok(())
    }

    fn settle_above(&mut self, blocks: &mut Blocks, content: &mut Content) -> Result<()> {
        let mut level = 1;
        while self.levels.get(level).is_some_and(|own| own.room() == 0) {
            self.settle_level(level, Until::Ahead, blocks, content)?;
            level += 1;
        }
        Ok(())
    }

    fn level<'o>(
        &'o mut self,
        level: usize,
        blocks: &'o mut Blocks,
        content: &'o mut Content,
    ) -> (&'o mut Level, Out<'o>) {
        let out = Out {
            blocks,
            content,
            children: &mut self.children,
            fresh: &mut self.fresh,
        };
        (&mut self.levels[level], out)
    }

    /// Makes nodes of one level the entries of the next.
    fn pass_up(&mut self, from: usize) {
        if self.children.is_empty() {
            return;
        }
        if let Some(leaves) = &mut self.leaves {
            leaves.append(&mut self.children);
            return;
        }
        if from + 1 == self.levels.len() {
            self.levels.push(Level::new(from + 1, false));
        }
        let children = self.children.iter();
        self.levels[from + 1].push(children.map(|child| (child.key, child.at.0)));
        self.children.clear();
    }

    /// Adds leaves of a part after all that came.
    pub fn place_leaves(
        &mut self,
        blocks: &mut Blocks,
        content: &mut Content,
        leaves: &[Child],
    ) -> Result<()> {
        for leaf in leaves {
            let (own, mut out) = self.level(0, blocks, content);
            own.settle(&mut out, Until::Boundary)?;
            let placed = leaf.nr >= FEWEST && own.place(&mut out, *leaf)?;
            if !placed {
                // They wait: if nothing follows they are a root, and found as such.
                own.push_entries_of(&mut out, *leaf)?;
            }
            self.pass_up(0);
            self.settle_above(blocks, content)?;
        }
        Ok(())
    }

    /// Ends the tree; its root, to which the caller has one reference.
    pub fn end(&mut self, blocks: &mut Blocks, content: &mut Content) -> Result<BlockNr> {
        let mut level = 0;
        loop {
            let (own, mut out) = self.level(level, blocks, content);
            own.settle(&mut out, Until::End)?;
            if own.passed() == 1
                && let [root] = self.children[..]
            {
                content.refer(blocks, root.at)?;
                content.nodes.enter(self.fresh.drain(..));
                return Ok(root.at);
            }
            self.pass_up(level);
            level += 1;
        }
    }

    /// Ends a part: its leaves.
    pub fn end_part(mut self, blocks: &mut Blocks, content: &mut Content) -> Result<Vec<Child>> {
        self.settle_level(0, Until::End, blocks, content)?;
        content.nodes.enter(self.fresh);
        Ok(self.leaves.unwrap_or_default())
    }
}
