//! tonic: a unary call over HTTP/2 on a Unix socket.

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

use self::generated::echoes_client::EchoesClient;
use self::generated::echoes_server::{Echoes, EchoesServer};
use crate::{BALL, Caller, Result, check};

mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.Echoes.rs"));
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ball {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

struct Echo;

#[tonic::async_trait]
impl Echoes for Echo {
    async fn echo(&self, request: Request<Ball>) -> std::result::Result<Response<Ball>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

pub(crate) async fn serve(place: &str) -> Result<()> {
    let incoming = UnixListenerStream::new(UnixListener::bind(place)?);
    Ok(Server::builder().add_service(EchoesServer::new(Echo)).serve_with_incoming(incoming).await?)
}

pub(crate) async fn connect(place: &str) -> Result<EchoesClient<Channel>> {
    let place = place.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let place = place.clone();
        async move { UnixStream::connect(place).await.map(TokioIo::new) }
    });
    // The connector knows where to; the address only names the host in each call.
    let channel = Endpoint::from_static("http://bench").connect_with_connector(connector).await?;
    Ok(EchoesClient::new(channel))
}

impl Caller for EchoesClient<Channel> {
    async fn call(&mut self) -> Result<()> {
        check(&self.echo(Ball { bytes: BALL.to_vec() }).await?.into_inner().bytes)
    }
}
