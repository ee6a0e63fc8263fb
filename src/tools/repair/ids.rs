//! One device, and two ids for it: one of the two small trees is wrong.

use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::plan::Survey;
use super::scan::Shape;
use super::trees::{Met, Trees};
use crate::btree::{NODE_NAME, NODE_VALIDATOR, Node};
use crate::device::Device;
use crate::error::{Damage, Result, Value};
use crate::task::Task;
use crate::thin::{DeviceDetails, DeviceInfo};
use crate::units::BlockNr;
use crate::walk::Reader;

impl Survey {
    /// Takes the id under which more blocks know the device, those of earlier times among
    /// them; where as many know it under the other, that of its details, and says so.
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
        let of_id = |info: &&DeviceInfo| info.id == of_details;
        let (Some(stray), Some(info)) = (
            live.strays.first(),
            live.details.iter().find(of_id).copied(),
        ) else {
            return Ok(());
        };
        let root = stray.1;
        let (for_root, for_details) = (
            self.knowing(of_root, root, &info, task)?,
            self.knowing(of_details, root, &info, task)?,
        );
        let (at, wrong, right) = match for_root > for_details {
            true => (details_root, of_details, of_root),
            false => (mapping_root, of_root, of_details),
        };
        let told: Value = match for_root == for_details {
            true => format!("{right}, though no more blocks know that").into(),
            false => right.into(),
        };
        live.take_id(right, met);
        live.renamed = Some(Damage::new(BlockNr(at), NODE_NAME, "key", wrong, told));
        Ok(())
    }

    /// Leaves of small trees that have this device under an id: with its root, or with
    /// details of when it was made. Another one may have had the id before.
    fn knowing(&mut self, id: u64, root: u32, info: &DeviceInfo, task: &Task<'_>) -> Result<usize> {
        let device: Arc<dyn Device> = Arc::clone(&self.device);
        let reader = Reader::new(&*device, false);
        let nodes = self.scan(task)?.nodes.iter();
        let may_know = nodes.filter(|node| {
            matches!(node.shape, Shape::Top | Shape::Details)
                && (node.first..=node.last).contains(&id)
        });
        let knows = |scanned: &super::scan::Scanned| {
            let at = BlockNr(scanned.block.into());
            let block = reader.read_block(at, NODE_NAME, &NODE_VALIDATOR).ok()?;
            let node = Node::parse(at, &block).ok()?;
            let index = node.keys().iter().position(|key| key.get() == id)?;
            let is_same = match scanned.shape {
                Shape::Top => node.values::<U64>().ok()?.get(index)?.get() == u64::from(root),
                _ => {
                    let details = node.values::<DeviceDetails>().ok()?.get(index)?;
                    details.transaction_id.get() == info.transaction_id
                        && details.creation_time.get() == info.creation_time
                }
            };
            is_same.then_some(())
        };
        Ok(may_know.filter_map(knows).count())
    }
}
