use std::{collections::HashMap, sync::Arc};

use test_services::TcpProxy;

use crate::support::{Running, Shop, assert_first_deliveries_in_order, log_on, relay_of};

/// The relay's database goes away and comes back, three times, while writers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_is_waited_for() {
    let shop = Shop::open().await;
    let url: url::Url = shop.database.url().parse().expect("url");
    let server = url.socket_addrs(|| Some(5432)).expect("address")[0];
    let proxy = TcpProxy::start(server).await;
    let mut through = url.clone();
    through.set_ip_host(proxy.addr().ip()).expect("host");
    through.set_port(Some(proxy.addr().port())).expect("port");
    let options = through.as_str().parse().expect("options");
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(std::time::Duration::from_secs(2))
        .connect_lazy_with(options);
    let log = Arc::new(log_on(pool, shop.profile.clone()).await);
    let mut running = Running::start(relay_of(log, &shop.publisher, &shop.profile).build());

    let mut total = 0;
    for _ in 0..3 {
        for n in 1..=50 {
            shop.change(n).await;
        }
        total += 50;
        running.until("all is published", |s| s.published >= total).await;
        proxy.cut();
        for n in 1..=50 {
            shop.change(n).await;
        }
        total += 50;
        running.until("the outage shows", |s| s.last_error.is_some()).await;
        proxy.restore();
        running.until("the rest is published", |s| s.published >= total && s.last_error.is_none()).await;
    }
    running.stop().await;
    let told = shop.read_back(total as usize).await;
    let changes: HashMap<i64, i64> = (1..=50).map(|n| (n, 6)).collect();
    assert_first_deliveries_in_order(&told, &changes);
    shop.database.drop_database().await;
}
