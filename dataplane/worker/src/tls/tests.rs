//! Handshakes and sessions against rustls clients, in memory.

use std::io::{Read as _, Write as _};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, default_provider};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore, SupportedCipherSuite};

use super::*;

fn client(suite: SupportedCipherSuite) -> ClientConnection {
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        ..default_provider()
    };
    let version = [suite.version()];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&version)
        .unwrap()
        .with_root_certificates(trusted(suite))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    client.set_buffer_limit(None);
    client
}

fn pem(key: &'static rcgen::SignatureAlgorithm) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(key).unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// ECDSA and RSA suites of TLS 1.2 need a key of their kind.
fn made(suite: SupportedCipherSuite) -> &'static (String, String) {
    static MADE: [OnceLock<(String, String)>; 2] = [OnceLock::new(), OnceLock::new()];
    let rsa = format!("{:?}", suite.suite()).contains("_RSA_");
    match rsa {
        true => MADE[0].get_or_init(|| pem(&rcgen::PKCS_RSA_SHA256)),
        false => MADE[1].get_or_init(|| pem(&rcgen::PKCS_ECDSA_P256_SHA256)),
    }
}

/// The certificate signs itself, so a client that knows it believes it.
fn trusted(suite: SupportedCipherSuite) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(made(suite).0.as_bytes());
    roots.add(certificate.unwrap()).unwrap();
    roots
}

fn identity(suite: SupportedCipherSuite) -> Arc<Identity> {
    let (chain, key) = made(suite);
    Identity::new(chain.as_bytes(), key.as_bytes()).unwrap().0
}

fn memory() -> Rc<TlsMemory> {
    TlsMemory::new(16 << 20)
}

fn outgoing(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Hands bytes to the client and returns the content in them.
fn deliver(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets().unwrap();
        let mut some = [0; 32 << 10];
        while let Ok(count @ 1..) = client.reader().read(&mut some) {
            content.extend_from_slice(&some[..count]);
        }
    }
    content
}

/// A session with `early` sent by the client in the flight of its Finished, bytes
/// `step` at a time; and what of that content came so far.
fn shake(suite: SupportedCipherSuite, early: &[u8], step: usize) -> Pair {
    let mut client = client(suite);
    let memory = memory();
    let charge = memory.admit().unwrap();
    let mut session = Session::new(identity(suite).config(), &memory, charge).unwrap();
    if !early.is_empty() {
        client.writer().write_all(early).unwrap();
    }
    let (mut done, mut content) = (false, Vec::new());
    while !done {
        let flight = outgoing(&mut client);
        assert!(!flight.is_empty(), "nobody has anything to say");
        for piece in flight.chunks(step.min(memory::SMALL_BYTES)) {
            if done {
                content.extend(receive(&mut session, piece, step).unwrap());
                continue;
            }
            put(&mut session, piece, true);
            let mut answer = Vec::new();
            match session.shake(&mut answer) {
                Step::Done => done = true,
                Step::Receive => {}
                Step::Failed(error) => panic!("{error}"),
            }
            assert!(deliver(&mut client, &answer).is_empty());
        }
    }
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
    Pair {
        client,
        session,
        content,
    }
}

struct Pair {
    client: ClientConnection,
    session: Session,
    content: Vec<u8>,
}

/// Gives the session as much of `bytes` as it has room for.
fn put(session: &mut Session, bytes: &[u8], idle: bool) -> usize {
    let mut space = session.space(idle).unwrap();
    let count = space.len().min(bytes.len());
    assert!(count > 0);
    space[..count].copy_from_slice(&bytes[..count]);
    session.restore(space, count);
    count
}

fn receive(session: &mut Session, bytes: &[u8], step: usize) -> Result<Vec<u8>, Error> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let some = |piece: &[u8]| {
            let count = piece.len().min(5000);
            content.extend_from_slice(&piece[..count]);
            count
        };
        match session.advance(some)? {
            Taken::Content(count) => assert!(count > 0),
            Taken::Starved if at < bytes.len() => {
                let to = bytes.len().min(at.saturating_add(step));
                at += put(session, &bytes[at..to], content.is_empty());
            }
            Taken::End | Taken::Starved => return Ok(content),
        }
    }
}

fn seal_all(session: &mut Session, mut content: &[u8], room: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = vec![0; room];
    loop {
        let (taken, written) = session.seal(content, &mut out).unwrap();
        if written == 0 {
            assert!(content.is_empty());
            return bytes;
        }
        bytes.extend_from_slice(&out[..written]);
        content = &content[taken..];
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 % 251) as u8).collect()
}

#[test]
fn every_suite_both_ways() {
    for &suite in ALL_CIPHER_SUITES {
        let Pair {
            mut client,
            mut session,
            ..
        } = shake(suite, b"", usize::MAX);
        for length in [1, 100, 16_384, 16_385, 70_000] {
            let content = pattern(length);
            client.writer().write_all(&content).unwrap();
            let bytes = outgoing(&mut client);
            assert_eq!(receive(&mut session, &bytes, 3333).unwrap(), content);
            for room in [memory::SMALL_BYTES, memory::BULK_BYTES] {
                let bytes = seal_all(&mut session, &content, room);
                assert_eq!(deliver(&mut client, &bytes), content, "{suite:?}");
            }
        }
        client.send_close_notify();
        let bytes = outgoing(&mut client);
        assert_eq!(receive(&mut session, &bytes, 1).unwrap(), b"");
        assert_eq!(session.advance(<[u8]>::len), Ok(Taken::End));
        session.close();
        client.read_tls(&mut &session.outgoing()[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn a_handshake_in_single_bytes_and_content_right_behind_it() {
    for &suite in ALL_CIPHER_SUITES {
        for step in [1, 1000, usize::MAX] {
            let early = pattern(20_000);
            let mut pair = shake(suite, &early, step);
            let late = outgoing(&mut pair.client);
            let content = receive(&mut pair.session, &late, 1000).unwrap();
            assert_eq!([pair.content, content].concat(), early);
        }
    }
}

#[test]
fn damage_is_noticed_and_answered_wherever_it_is() {
    for &suite in ALL_CIPHER_SUITES {
        for at in (0..).step_by(5) {
            let mut pair = shake(suite, b"", usize::MAX);
            pair.client.writer().write_all(b"content").unwrap();
            let mut bytes = outgoing(&mut pair.client);
            if at >= bytes.len() {
                break;
            }
            bytes[at] ^= 1;
            let result = receive(&mut pair.session, &bytes, usize::MAX);
            // The outer type says nothing in TLS 1.3 (RFC 8446 §5.2).
            if at == 0 && result.as_deref() == Ok(b"content") {
                assert!(suite.tls13().is_some());
                continue;
            }
            assert!(result.is_err(), "{suite:?} {at}: {result:?}");
            let alert = pair.session.outgoing();
            assert!(!alert.is_empty());
            pair.client.read_tls(&mut &alert[..]).unwrap();
            let told = pair.client.process_new_packets();
            assert!(matches!(told, Err(Error::AlertReceived(_))), "{told:?}");
            assert!(pair.session.advance(<[u8]>::len).is_err());
        }
    }
}

#[test]
fn a_record_cannot_be_sent_twice() {
    for &suite in ALL_CIPHER_SUITES {
        let mut pair = shake(suite, b"", usize::MAX);
        pair.client.writer().write_all(b"one").unwrap();
        let one = outgoing(&mut pair.client);
        assert_eq!(receive(&mut pair.session, &one, 9).unwrap(), b"one");
        let again = receive(&mut pair.session, &one, usize::MAX);
        assert_eq!(again, Err(Error::DecryptError), "{suite:?}");
    }
}

fn suites_13() -> impl Iterator<Item = SupportedCipherSuite> {
    let all = ALL_CIPHER_SUITES.iter().copied();
    all.filter(|suite| suite.tls13().is_some())
}

#[test]
fn keys_change_when_the_client_wants() {
    for suite in suites_13() {
        let mut pair = shake(suite, b"", usize::MAX);
        for round in 0..5 {
            // rustls asks for ours in return.
            pair.client.refresh_traffic_keys().unwrap();
            let sent = pattern(round + 1);
            pair.client.writer().write_all(&sent).unwrap();
            let bytes = outgoing(&mut pair.client);
            assert_eq!(receive(&mut pair.session, &bytes, 7).unwrap(), sent);
            // A key update goes along, however little room there is.
            let bytes = seal_all(&mut pair.session, &pattern(9000), memory::SMALL_BYTES);
            assert_eq!(deliver(&mut pair.client, &bytes), pattern(9000));
        }
    }
}

#[test]
fn key_changes_without_end_are_refused() {
    for suite in suites_13() {
        let mut pair = shake(suite, b"", usize::MAX);
        let mut bytes = Vec::new();
        for _ in 0..100 {
            pair.client.refresh_traffic_keys().unwrap();
            bytes.extend(outgoing(&mut pair.client));
        }
        let result = receive(&mut pair.session, &bytes, usize::MAX);
        assert!(matches!(result, Err(Error::PeerMisbehaved(_))));
    }
}

#[test]
fn a_hello_without_end_is_refused() {
    let suite = ALL_CIPHER_SUITES[0];
    let memory = memory();
    let charge = memory.admit().unwrap();
    let mut session = Session::new(identity(suite).config(), &memory, charge).unwrap();
    // Records of 16 KiB that say they are parts of a hello of 60 KiB.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.extend([1, 0, 0xf0, 0]);
    record.resize(5 + (16 << 10), 0);
    let hello = record.repeat(4);
    let (mut at, mut answer) = (0, Vec::new());
    while at < hello.len() {
        at += put(&mut session, &hello[at..], true);
        if let Step::Failed(_) = session.shake(&mut answer) {
            assert!(at <= (36 << 10), "{at}");
            return;
        }
    }
    panic!("all of it was taken");
}

#[test]
fn memory_is_given_back_and_its_lack_noticed() {
    let suite = ALL_CIPHER_SUITES[0];
    let mut pair = shake(suite, b"", usize::MAX);
    let memory = Rc::clone(pair.session.memory());
    let idle = memory.used();
    let content = pattern(100_000);
    pair.client.writer().write_all(&content).unwrap();
    let bytes = outgoing(&mut pair.client);
    assert_eq!(receive(&mut pair.session, &bytes, 9999).unwrap(), content);
    assert!(memory.used() > idle + memory::BUSY_BYTES);
    let space = pair.session.space(true).unwrap();
    assert_eq!(space.len(), memory::SMALL_BYTES);
    pair.session.restore(space, 0);
    assert_eq!(
        memory.used(),
        idle + memory::BULK_BYTES,
        "one buffer is kept"
    );
    // Others take all there is.
    let mut taken = Vec::new();
    while let Some(charge) = memory.charge(1 << 10) {
        taken.push(charge);
    }
    assert!(pair.session.space(false).is_none());
    assert!(pair.session.space(true).is_some());
    drop((pair, taken));
    assert_eq!(memory.used(), 0);
}

#[test]
fn only_a_pair_is_an_identity() {
    let (chain, key) = pem(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (_, other) = pem(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (identity, validity) = Identity::new(chain.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(validity.names, ["localhost", "127.0.0.1"]);
    assert!(validity.until > validity.from);
    let before = identity.config();
    let refused = |chain: &str, key: &str| identity.replace(chain.as_bytes(), key.as_bytes());
    assert!(matches!(
        refused(&chain, &other),
        Err(IdentityError::Mismatch)
    ));
    assert!(matches!(
        refused("", &key),
        Err(IdentityError::Certificate(_))
    ));
    assert!(matches!(refused(&chain, "x"), Err(IdentityError::Key(_))));
    assert!(Arc::ptr_eq(&before, &identity.config()));
    identity.replace(chain.as_bytes(), key.as_bytes()).unwrap();
    assert!(!Arc::ptr_eq(&before, &identity.config()));
}
