//! Frames and capabilities under arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Call),
        Just(Kind::Piece),
        Just(Kind::Cancel),
        Just(Kind::Grant),
        Just(Kind::Answer),
        Just(Kind::Refused),
        Just(Kind::Broken),
    ]
}

fn prefix_of(bytes: &[u8]) -> [u8; PREFIX_BYTES] {
    bytes[..PREFIX_BYTES].try_into().unwrap()
}

proptest! {
    #[test]
    fn a_frame_comes_back_as_it_was(
        kind in kinds(),
        last: bool,
        head in prop::collection::vec(any::<u8>(), 0..300),
        body_bytes in 0..=BODY_BYTES_MAX,
        request: u64,
        deadline_ms: u32,
        body_sum: u32,
    ) {
        let head_bytes = head.len();
        let frame = Frame { kind, last, head_bytes, body_bytes, request, deadline_ms, body_sum };
        let bytes = frame.encode(&head).unwrap();
        prop_assert_eq!(bytes.len(), PREFIX_BYTES + head.len());
        let prefix = prefix_of(&bytes);
        prop_assert_eq!(Frame::decode(&prefix), Ok(frame));
        prop_assert_eq!(Frame::check(&prefix, &bytes[PREFIX_BYTES..]), Ok(()));
    }

    #[test]
    fn a_flipped_bit_is_seen(
        head in prop::collection::vec(any::<u8>(), 0..100),
        at: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let frame = Frame { head_bytes: head.len(), ..Frame::bare(Kind::Answer, 7) };
        let mut bytes = frame.encode(&head).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let prefix = prefix_of(&bytes);
        let seen = Frame::decode(&prefix).is_err()
            || Frame::check(&prefix, &bytes[PREFIX_BYTES..]).is_err();
        prop_assert!(seen);
    }

    #[test]
    fn arbitrary_bytes_stay_within_the_limits(bytes: [u8; PREFIX_BYTES], magic: bool) {
        let mut bytes = bytes;
        if magic {
            bytes[..4].copy_from_slice(b"QWP1");
            bytes[4] = bytes[4] % 7 + 1;
            bytes[5] &= 1;
        }
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert!(frame.head_bytes <= HEAD_BYTES_MAX);
            prop_assert!(frame.body_bytes <= BODY_BYTES_MAX);
        }
    }

    #[test]
    fn arbitrary_messages_hold_no_more_than_their_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let most = bytes.len();
        if let Ok(read) = decode::<LookAgain>(&bytes) {
            prop_assert!(read.keys.iter().map(String::len).sum::<usize>() <= most);
        }
        if let Ok(read) = decode::<Relay>(&bytes) {
            prop_assert!(read.headers.len() <= most && read.target.len() <= most);
        }
        if let Ok(read) = decode::<Record>(&bytes) {
            prop_assert!(read.tags.len() + read.sums.len() <= most);
        }
        if let Ok(read) = decode::<DeleteKeys>(&bytes) {
            prop_assert!(read.entries.len() <= most);
        }
        if let Ok(read) = decode::<Answer>(&bytes) {
            prop_assert!(read.headers.len() + read.text.len() <= most);
        }
        if let Ok(Call { capability: Some(read), .. }) = decode::<Call>(&bytes) {
            prop_assert!(read.key.len() + read.signature.len() <= most);
        }
    }

    #[test]
    fn no_part_of_a_capability_can_be_changed(field in 0..8usize, text in "[a-z]{1,8}") {
        let key = Key::new([7; KEY_BYTES]);
        let good = capability().signed(&key);
        let mut changed = good.clone();
        match field {
            0 => changed.bucket.push_str(&text),
            1 => changed.key.push_str(&text),
            2 => changed.operation.push_str(&text),
            3 => changed.epoch += 1,
            4 => changed.slot += 1,
            5 => changed.nonce += 1,
            6 => changed.signature[3] ^= 1,
            // Moved from one field to the next.
            _ => {
                let last = changed.bucket.pop().unwrap();
                changed.key.insert(0, last);
            }
        }
        prop_assert_eq!(changed.check("a", "b", [&key]), Err(CapabilityError::Signature));
        prop_assert_eq!(good.check("a", "b", [&key]), Ok(()));
    }
}

fn capability() -> Capability {
    Capability {
        caller: "a".into(),
        owner: "b".into(),
        bucket: "bucket".into(),
        key: "key".into(),
        operation: "GetObject".into(),
        epoch: 3,
        slot: 9,
        nonce: 1,
        signature: Vec::new(),
    }
}

#[test]
fn a_capability_is_for_two_parties_and_its_keys() {
    let (old, new) = (Key::new([1; KEY_BYTES]), Key::new([2; KEY_BYTES]));
    let signed = capability().signed(&old);
    assert_eq!(signed.check("a", "b", [&new, &old]), Ok(()));
    assert_eq!(
        signed.check("a", "b", [&new]),
        Err(CapabilityError::Signature)
    );
    assert_eq!(signed.check("a", "b", []), Err(CapabilityError::Signature));
    // Who calls is what the certificate says, not the message.
    assert_eq!(
        signed.check("c", "b", [&old]),
        Err(CapabilityError::Parties)
    );
    assert_eq!(
        signed.check("a", "c", [&old]),
        Err(CapabilityError::Parties)
    );
    assert!(format!("{old:?}").len() < 10, "keys are not shown");
}

#[test]
fn what_is_too_long_is_not_sent() {
    let frame = Frame::bare(Kind::Call, 1);
    assert_eq!(
        frame.encode(&vec![0; HEAD_BYTES_MAX + 1]),
        Err(FrameError::TooLong)
    );
    let frame = Frame {
        body_bytes: BODY_BYTES_MAX + 1,
        ..frame
    };
    assert_eq!(frame.encode(&[]), Err(FrameError::TooLong));
    let many = LookAgain {
        keys: vec!["k".repeat(1024); 1024],
    };
    assert_eq!(encode(&many), Err(MessageError::TooLong));
}

#[test]
fn damage_of_a_body_is_seen() {
    let body = vec![5; 70_000];
    let frame = Frame::piece(1, &body, true);
    assert_eq!(frame.body_sum, crc32c(&body));
    let mut other = body;
    other[69_999] ^= 1;
    assert_ne!(frame.body_sum, crc32c(&other));
}
