//! Many at once. The measurements print figures and are run by hand: `cargo test -p sandd-coordinator -- --ignored
//! --nocapture load`.

use std::time::{Duration, Instant};

use sandd_mesh::derp::Frame;

use super::client::{Node, Relay, soon, start};

#[tokio::test(flavor = "multi_thread")]
async fn forty_nodes_that_come_at_once_all_see_one_another() {
    const NODES: usize = 40;
    let (coordinator, key) = start(|builder| builder).await;
    let mut nodes = tokio::task::JoinSet::new();
    for number in 0..NODES {
        let (coordinator, key) = (coordinator.clone(), key.clone());
        nodes.spawn(async move {
            let (node, mut maps) = Node::join(&coordinator, &key, &format!("node-{number}")).await;
            let mut peers = std::collections::BTreeSet::new();
            while peers.len() < NODES - 1 {
                let message = maps.next().await.unwrap();
                peers.extend(message.peers.iter().chain(&message.peers_changed).map(|peer| peer.id));
            }
            // Its stream must stay open until all others have seen it.
            (node, maps)
        });
    }
    assert_eq!(soon("all peers", nodes.join_all()).await.len(), NODES);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn load_two_hundred_joins_one_after_the_other() {
    let (coordinator, key) = start(|builder| builder).await;
    let mut times = Vec::new();
    let mut kept = Vec::new();
    for number in 0..200 {
        let began = Instant::now();
        let (node, mut maps) = Node::join(&coordinator, &key, &format!("node-{number}")).await;
        let full = maps.next().await.unwrap();
        times.push(began.elapsed());
        assert_eq!(full.peers.len(), number);
        kept.push((
            node,
            tokio::spawn(async move { while maps.next_json().await.is_some() {} }),
        ));
    }
    times.sort();
    eprintln!(
        "join to first map: median {:?}, p95 {:?}, last {:?}",
        times[100], times[190], times[199]
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn load_relay_throughput() {
    const PACKETS: usize = 200_000;
    let (coordinator, key) = start(|builder| builder).await;
    let (first, _maps) = Node::join(&coordinator, &key, "first").await;
    let (second, _others) = Node::join(&coordinator, &key, "second").await;
    let mut sender = Relay::connect(coordinator.listen_addr(), &first.key, false)
        .await
        .unwrap();
    let mut receiver = Relay::connect(coordinator.listen_addr(), &second.key, false)
        .await
        .unwrap();
    let dst = second.key.public();
    let began = Instant::now();
    let send = tokio::spawn(async move {
        let packet = [4u8; 1280];
        for _ in 0..PACKETS {
            sender.send(Frame::SendPacket { dst, packet: &packet }).await;
        }
        sender
    });
    let mut got = 0usize;
    let mut last = began;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(300), receiver.next_frame()).await {
        got += 1;
        last = Instant::now();
    }
    let seconds = last.duration_since(began).as_secs_f64();
    let megabits = f64::from(u32::try_from(got * 1280 * 8).unwrap_or(u32::MAX)) / seconds / 1e6;
    eprintln!("relayed {got} of {PACKETS} packets in {seconds:.2} s: {megabits:.0} Mbit/s");
    drop(send.await.unwrap());
}
