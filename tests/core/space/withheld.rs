//! Blocks that a view reads are not handed out, and say so when they are missed.

use thinmeta::btree::NODE_VALIDATOR;
use thinmeta::{BlockNr, Error};

use super::{commit, create, memory};

#[test]
fn no_space_names_the_blocks_that_views_withhold() {
    let manager = create(memory(32)).unwrap();
    let mut blocks = Vec::new();
    manager
        .change(|txn| {
            for _ in 0..20 {
                blocks.push(txn.new_block(&NODE_VALIDATOR)?.location());
            }
            Ok(())
        })
        .unwrap();
    commit(&manager).unwrap();
    let (view, _) = manager.open_view();
    blocks
        .iter()
        .for_each(|block| manager.change(|txn| txn.dec(*block)).unwrap());
    commit(&manager).unwrap();
    let (free, withheld) = manager
        .look(|txn| Ok((txn.nr_free(), txn.withheld_blocks())))
        .unwrap();
    // Twenty, and the bitmap and the index that were copied.
    assert_eq!(withheld, 22);
    let fill = |forbidden: &[BlockNr]| {
        manager.change(|txn| {
            for _ in 0..=free {
                let block = txn.new_block(&NODE_VALIDATOR)?.location();
                assert!(!forbidden.contains(&block), "block {block} was handed out");
            }
            Ok(())
        })
    };
    let Err(Error::NoSpace { reason, .. }) = fill(&blocks) else {
        panic!("more blocks were handed out than there are");
    };
    assert!(reason.contains("withheld for open views (22)"), "{reason}");
    manager.abort().unwrap();
    assert_eq!(manager.look(|txn| Ok(txn.withheld_blocks())).unwrap(), 22);
    manager.view_closed(view);
    let after = manager
        .look(|txn| Ok((txn.nr_free(), txn.withheld_blocks())))
        .unwrap();
    assert_eq!(after, (free + 22, 0));
    fill(&[]).unwrap();
}
