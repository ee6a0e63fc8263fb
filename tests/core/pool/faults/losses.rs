//! Volumes share one transaction: who is told when it is taken back.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use thinmeta::thin::{PoolState, PoolWriter, WritableVolume, WriteOptions};

use crate::pool::script::{Op, commit, transact};
use crate::pool::world::{Model, create, listing, memory};

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 700;

/// Two volumes; the second has several leaves of mappings, all to one data block.
fn pool() -> (Vec<u8>, Model) {
    let device = memory(100);
    let (writer, mut model) = create(device.clone(), 20);
    let ops = vec![Op::Create(1..3), Op::MapToOne(2, 0..BLOCKS)];
    transact(&writer.transaction().unwrap(), &commit(ops), &mut model).unwrap();
    (device.contents(), model)
}

struct Opened {
    metadata: Arc<FaultyDevice>,
    data: Arc<FaultyDevice>,
    writer: Arc<PoolWriter>,
    volumes: [WritableVolume; 2],
}

fn open(image: &[u8]) -> Opened {
    let faulty = |bytes: Vec<u8>| {
        let memory = Arc::new(MemoryDevice::writable(bytes));
        Arc::new(FaultyDevice::new(memory as Arc<dyn Device>))
    };
    let (metadata, data) = (faulty(image.to_vec()), faulty(vec![0; 20 << 16]));
    // Nothing of the trees is known before it is read.
    let options = WriteOptions::default();
    let devices = [&metadata, &data].map(|device| Arc::clone(device) as Arc<dyn Device>);
    let [over_metadata, over_data] = devices;
    let writer = PoolWriter::from_devices(over_metadata, Some(over_data), &options).unwrap();
    let volumes = [1, 2].map(|id| WritableVolume::again(&writer, id, BLOCKS * BLOCK, None));
    Opened {
        metadata,
        data,
        writer,
        volumes,
    }
}

fn first_byte(volume: &WritableVolume) -> u8 {
    let mut byte = [0];
    volume.read_at(&mut byte, 0).unwrap();
    byte[0]
}

#[test]
fn a_flush_does_not_pass_over_writes_that_another_volumes_failure_took_back() {
    let (image, model) = pool();
    let (mut kept, mut lost) = (0, 0);
    for after in 0.. {
        let opened = open(&image);
        let [one, other] = &opened.volumes;
        one.write_at(&[7; 512], 0).unwrap();
        opened.metadata.set_fault(Fault::once(Request::Read, after));
        let discarded = other.discard(BLOCK..(BLOCKS - 1) * BLOCK);
        opened.metadata.heal();
        let Err(error) = discarded else {
            assert_eq!(opened.metadata.failed(), 0);
            break;
        };
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert_eq!(opened.writer.state(), PoolState::Write);
        if first_byte(one) == 7 {
            kept += 1;
            one.flush().unwrap();
            other.flush().unwrap();
            assert_eq!(first_byte(one), 7);
            continue;
        }
        lost += 1;
        assert!(listing(&opened.writer.current().unwrap()) == model.devices);
        // It had written nothing before.
        other.flush().unwrap();
        if lost % 2 == 0 {
            // Nobody has asked: closing tells.
            let told = opened.writer.close();
            assert!(matches!(told, Err(Error::TakenBack(_))), "{told:?}");
            assert!(opened.writer.is_closed());
            one.flush().unwrap();
            continue;
        }
        // What was written since then is committed by the flush that tells.
        one.write_at(&[8; 512], 0).unwrap();
        let told = one.flush();
        assert!(matches!(told, Err(Error::TakenBack(_))), "{told:?}");
        opened.writer.transaction().unwrap().commit().unwrap();
        one.flush().unwrap();
        assert_eq!(first_byte(one), 8);
        opened.writer.close().unwrap();
    }
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

#[test]
fn a_commit_that_fails_is_told_to_every_volume_that_wrote() {
    let (image, _) = pool();
    let opened = open(&image);
    let [one, other] = &opened.volumes;
    one.write_at(&[7; 512], 0).unwrap();
    other.write_at(&[7; 512], 0).unwrap();
    opened.data.set_fault(Fault::once(Request::Flush, 0));
    let failed = one.flush();
    assert!(
        matches!(
            failed,
            Err(Error::CommitFailed {
                needs_check_set: true,
                ..
            })
        ),
        "{failed:?}"
    );
    one.flush().unwrap();
    assert!(matches!(other.flush(), Err(Error::TakenBack(_))));
    other.flush().unwrap();
}

#[test]
fn data_that_was_flushed_is_not_flushed_again() {
    let (image, _) = pool();
    let opened = open(&image);
    let [one, other] = &opened.volumes;
    one.write_at(&[7; 512], 0).unwrap();
    one.flush().unwrap();
    // In its place: the metadata does not change.
    one.write_at(&[8; 512], 0).unwrap();
    one.flush().unwrap();
    let counts = || [&opened.data, &opened.metadata].map(|device| device.count(Request::Flush));
    assert_eq!(counts(), [2, 2]);
    other.discard(0..BLOCK).unwrap();
    other.flush().unwrap();
    assert_eq!(counts(), [2, 4]);
}
