//! nats-server: request and reply through it, between two clients of its own.

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::{BALL, Caller, Result, check};

const SUBJECT: &str = "echo";

pub(crate) async fn serve(place: &str) -> Result<()> {
    let client = async_nats::connect(place).await?;
    let mut asked = client.subscribe(SUBJECT).await?;
    while let Some(message) = asked.next().await {
        if let Some(reply) = message.reply {
            client.publish(reply, message.payload).await?;
        }
    }
    Err("nats-server is gone".into())
}

pub(crate) async fn connect(place: &str) -> Result<Client> {
    Ok(async_nats::connect(place).await?)
}

impl Caller for Client {
    async fn call(&mut self) -> Result<()> {
        check(&self.request(SUBJECT, Bytes::from_static(&BALL)).await?.payload)
    }
}
