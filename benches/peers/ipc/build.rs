//! gRPC's service as code: one unary call that answers what it was sent.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let echo = Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type("crate::grpc::Ball")
        .output_type("crate::grpc::Ball")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    Builder::new().compile(&[Service::builder().name("Echoes").package("bench").method(echo).build()]);
}
