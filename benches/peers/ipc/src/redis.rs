//! redis-server: `ECHO`, pipelined on one multiplexed connection.

use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, cmd};

use crate::{BALL, Caller, Result, check};

pub(crate) async fn connect(place: &str) -> Result<MultiplexedConnection> {
    Ok(Client::open(format!("redis+unix://{place}"))?.get_multiplexed_async_connection().await?)
}

impl Caller for MultiplexedConnection {
    async fn call(&mut self) -> Result<()> {
        let answer: Vec<u8> = cmd("ECHO").arg(&BALL[..]).query_async(self).await?;
        check(&answer)
    }
}
