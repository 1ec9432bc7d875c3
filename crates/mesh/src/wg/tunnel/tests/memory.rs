//! How much a tunnel holds, and that keys are gone when they should be.

use std::mem::size_of;

use super::super::*;

/// More than a boxed key takes: 32 bytes and what ring keeps, a little over 500.
const KEY_HEAP: usize = 640;

#[test]
fn a_tunnel_is_small() {
    let world = super::world::World::connected();
    let tunnel = &world.ends[0].tunnel;
    let heap = (tunnel.spares.capacity() + tunnel.gone.capacity()) * size_of::<u32>() + 4 * 16;
    let without = size_of::<Tunnel>() + heap;
    // Four sessions at most, each with two boxed keys.
    let session = size_of::<Session>() + 2 * KEY_HEAP;
    let with = without + 4 * session;
    println!("tunnel {without} B without session, a session {session} B, {with} B with four");
    assert!(without <= 1_024, "{without}");
    assert!(with <= 16 * 1_024, "{with}");
}

/// Reads this process's memory as a debugger would: what a safe program can say of freed memory.
#[cfg(target_os = "linux")]
mod wiped {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use super::super::super::*;
    use super::super::world::{World, identity, plain};

    fn holds(key: &[u8], bytes: &[u8]) -> bool {
        bytes.windows(key.len()).any(|window| window == key)
    }

    /// The bytes at an address; nothing when it is not mapped any more.
    fn memory(address: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = File::open("/proc/self/mem").and_then(|file| file.read_exact_at(&mut bytes, address as u64));
        if read.is_ok() { bytes } else { Vec::new() }
    }

    /// Where the keys of the current session lie: a key is a pointer to them.
    fn boxed_keys(tunnel: &Tunnel) -> [usize; 2] {
        let noted = tunnel.sessions.current().unwrap().key_places();
        noted.map(|at| usize::from_ne_bytes(memory(at, size_of::<usize>()).try_into().unwrap()))
    }

    /// A tunnel as initiator whose peer is a bare handshake, so that the test knows its keys.
    fn keys_of(tunnel: &mut Tunnel, peer: &Identity, theirs: &mut Handshake, now: Instant) -> SessionKeys {
        let message = tunnel.initiate(now).unwrap();
        let Ok(Packet::HandshakeInit(init)) = Packet::parse(&message) else {
            panic!()
        };
        let initiator = peer.read_initiation(&init).unwrap();
        let (response, keys) = theirs.respond(&initiator, 9, now).unwrap();
        tunnel.handle_answer(&response, now, &mut Vec::new()).unwrap();
        keys
    }

    #[test]
    fn keys_are_gone_when_their_session_is() {
        let now = Instant::now();
        let (own, peer) = (identity(now), identity(now));
        let mut theirs = Handshake::new(Arc::clone(&peer), *own.public(), None);
        let mut table = IndexTable::new();
        let mut tunnel = Box::new(Tunnel::new(&own, plain(peer.public()), now));
        tunnel.settle(&mut table, ());
        let keys = keys_of(&mut tunnel, &peer, &mut theirs, now);
        tunnel.settle(&mut table, ());

        let places = boxed_keys(&tunnel);
        let found = |key: &[u8]| places.iter().any(|at| holds(key, &memory(*at, super::KEY_HEAP)));
        assert!(
            found(&keys.send[..]) && found(&keys.recv[..]),
            "the test looks in the right place"
        );

        // Renewed after 120 s, the old keys are used for what is late until they are 180 s old.
        let later = now + Duration::from_secs(120);
        let renewed = keys_of(&mut tunnel, &peer, &mut theirs, later);
        tunnel.handle_timeout(later, &mut Vec::new());
        assert!(found(&keys.send[..]));
        tunnel.handle_timeout(now + Duration::from_secs(181), &mut Vec::new());
        assert!(!found(&keys.send[..]) && !found(&keys.recv[..]), "wiped");

        let places = boxed_keys(&tunnel);
        let found = |key: &[u8]| places.iter().any(|at| holds(key, &memory(*at, super::KEY_HEAP)));
        assert!(found(&renewed.send[..]));
        drop(tunnel);
        assert!(!found(&renewed.send[..]) && !found(&renewed.recv[..]));
    }

    #[test]
    fn a_tunnel_holds_no_key_of_an_ended_session_itself() {
        let mut world = World::connected();
        let now = world.now;
        let peer = identity(now);
        let own = Arc::clone(&world.ends[0].identity);
        let mut theirs = Handshake::new(Arc::clone(&peer), *own.public(), None);
        let mut tunnel = Box::new(Tunnel::new(&own, plain(peer.public()), now));
        tunnel.settle(&mut world.ends[0].table, ());
        let keys = keys_of(&mut tunnel, &peer, &mut theirs, now);
        tunnel.handle_timeout(now + Duration::from_secs(181), &mut Vec::new());
        let bytes = memory(std::ptr::from_ref(&*tunnel).addr(), size_of::<Tunnel>());
        assert!(
            holds(peer.public().as_bytes(), &bytes),
            "the test looks in the right place"
        );
        assert!(!holds(&keys.send[..], &bytes) && !holds(&keys.recv[..], &bytes));
        assert_eq!(tunnel.handshake.waiting().count(), 0, "nor an ephemeral key");
    }

    #[test]
    fn ephemeral_keys_are_gone_after_an_attempt() {
        let mut world = World::new();
        world.link = Box::new(|_, _| Vec::new());
        world.say(0, b"nobody there");
        assert_eq!(world.ends[0].tunnel.handshake.waiting().count(), 1);
        world.pass(Duration::from_secs(100));
        assert_eq!(world.ends[0].tunnel.handshake.waiting().count(), 0);
        assert!(world.ends[0].tunnel.last_message.is_none());
    }
}
