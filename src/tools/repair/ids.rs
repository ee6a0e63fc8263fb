//! One device, and two ids for it: one of the two small trees is wrong.

use std::sync::Arc;

use super::plan::Survey;
use super::scan::Shape;
use super::trees::{Met, Trees};
use crate::btree::{NODE_NAME, NODE_VALIDATOR, Node};
use crate::device::Device;
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::units::BlockNr;
use crate::walk::Reader;

impl Survey {
    /// Takes the id that more blocks know, those of earlier times among them; none where
    /// as many know the other.
    pub(super) fn settle_ids(
        &mut self,
        live: &mut Trees,
        (mapping_root, details_root): (u64, u64),
        met: &mut Met,
        task: &Task<'_>,
    ) -> Result<()> {
        let Some((of_root, of_details)) = live.two_ids() else {
            return Ok(());
        };
        let (for_root, for_details) = (
            self.knowing(of_root, task)?,
            self.knowing(of_details, task)?,
        );
        if for_root == for_details {
            return Ok(());
        }
        let (at, wrong, right) = match for_root > for_details {
            true => (details_root, of_details, of_root),
            false => (mapping_root, of_root, of_details),
        };
        live.take_id(right, met);
        live.renamed = Some(Damage::new(BlockNr(at), NODE_NAME, "key", wrong, right));
        Ok(())
    }

    /// Leaves of small trees that have an id.
    fn knowing(&mut self, id: u64, task: &Task<'_>) -> Result<usize> {
        let device: Arc<dyn Device> = Arc::clone(&self.device);
        let reader = Reader::new(&*device, false);
        let nodes = self.scan(task)?.nodes.iter();
        let may_know = nodes.filter(|node| {
            matches!(node.shape, Shape::Top | Shape::Details)
                && (node.first..=node.last).contains(&id)
        });
        let knows = |node: &super::scan::Scanned| {
            let at = BlockNr(node.block.into());
            let block = reader.read_block(at, NODE_NAME, &NODE_VALIDATOR).ok()?;
            let node = Node::parse(at, &block).ok()?;
            node.keys().iter().any(|key| key.get() == id).then_some(())
        };
        Ok(may_know.filter_map(knows).count())
    }
}
