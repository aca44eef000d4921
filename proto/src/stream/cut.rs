//! Streams over lanes that are cut at random: what must hold whatever the link does.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, time::Duration};

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::mux::{Accept, Accepted, Mux};
use crate::{
    order::StoreRoot,
    v1,
    wire::{CHUNK_MAX, Target},
};

/// Answers every stream with an end that sends back what it gets.
struct Echo;

impl Accept for Echo {
    fn accept(
        &self,
        _: Target,
    ) -> Pin<Box<dyn Future<Output = Result<Accepted, String>> + Send + '_>> {
        Box::pin(async {
            let (io, local) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(local);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            Ok(Accepted {
                resume_from: 0,
                io,
                verdict: Box::pin(async { Ok(()) }),
            })
        })
    }
}

/// Joins two sides until `frames` frames have passed in one direction; those under way are lost.
async fn join(near: &Mux, far: &Mux, frames: usize) {
    let (near_tx, near_rx) = mpsc::channel::<v1::Frame>(2);
    let (far_tx, far_rx) = mpsc::channel::<v1::Frame>(2);
    let cut = |rx| {
        ReceiverStream::new(rx)
            .take(frames)
            .map(Ok::<_, Infallible>)
    };
    tokio::select! {
        _ = near.lane(near_tx, cut(far_rx)) => {}
        _ = far.lane(far_tx, cut(near_rx)) => {}
    }
}

async fn echo(data: Vec<u8>, cuts: Vec<Vec<usize>>, codec: v1::Codec) -> (Vec<u8>, u64) {
    let near = Mux::opener(7);
    let far = Mux::acceptor(Arc::new(Echo));
    // each inner list is a lane: how many frames it carries each time until it is cut
    for cuts in cuts {
        let (near, far) = (near.clone(), far.clone());
        tokio::spawn(async move {
            for frames in cuts.into_iter().chain(std::iter::repeat(1_000_000)) {
                join(&near, &far, frames).await;
                tokio::task::yield_now().await;
            }
        });
    }
    let opened = near
        .open(&Target::Store(StoreRoot::Target), codec)
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(opened.io);
    tokio::spawn(async move {
        write.write_all(&data).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    opened.done.await.unwrap().unwrap();
    (back, near.traffic().resent + far.traffic().resent)
}

#[track_caller]
fn check(length: usize, cuts: Vec<Vec<usize>>, codec: v1::Codec) -> u64 {
    let data: Vec<u8> = (0..length).map(|i| (i * i / 251) as u8).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let work = echo(data.clone(), cuts, codec);
    let done =
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await });
    let (back, resent) = done.expect("the stream ends");
    assert!(
        back == data,
        "{} bytes came back of {}",
        back.len(),
        data.len()
    );
    resent
}

#[test]
fn uncut_stream_sends_nothing_twice() {
    assert_eq!(check(5 << 20, vec![vec![]], v1::Codec::Identity), 0);
}

#[test]
fn several_lanes_carry_one_stream() {
    check(5 << 20, vec![vec![], vec![3, 50], vec![]], v1::Codec::Zstd);
}

#[test]
fn a_stream_whose_lane_carries_few_frames_at_a_time_still_ends() {
    check(
        2 << 20,
        vec![(1..400).map(|n| n % 7 + 1).collect()],
        v1::Codec::Identity,
    );
}

#[test]
fn what_a_cut_repeats_is_bounded_by_what_was_in_flight() {
    let resent = check(16 << 20, vec![vec![40]], v1::Codec::Identity);
    assert!(
        resent <= 8 * CHUNK_MAX as u64,
        "{resent} bytes were sent again"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_byte_arrives_once_and_in_order_whatever_is_cut(
        length in 0usize..3_000_000,
        cuts in prop::collection::vec(prop::collection::vec(1usize..40, 0..12), 1..3),
        zstd in any::<bool>(),
    ) {
        let codec = if zstd { v1::Codec::Zstd } else { v1::Codec::Identity };
        check(length, cuts, codec);
    }
}
