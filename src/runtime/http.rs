//! /metrics, /healthz and /readyz for whoever operates the provider: plain HTTP, no secrets.

use axum::{Router, http::StatusCode, routing::get};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Serves until cancelled. `problem`: why the provider is not ready, if it isn't.
pub async fn serve(
    listen: SocketAddr,
    metrics: impl Fn() -> String + Send + Sync + 'static,
    problem: watch::Receiver<Option<String>>,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let metrics = Arc::new(metrics);
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route(
            "/readyz",
            get(move || {
                let problem = problem.borrow().clone();
                async move {
                    match problem {
                        None => (StatusCode::OK, "ok".to_owned()),
                        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem),
                    }
                }
            }),
        )
        .route("/metrics", get(move || std::future::ready(metrics())));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}
