//! The Price List: GetProducts, in AWS's JSON 1.1. Products are the catalog's types, with its prices.

use super::{
    authorize, iam,
    refusal::Refusal,
    script::{Lifecycle, Pool},
    world::World,
};
use http::HeaderMap;
use serde_json::{Value, json};

pub const TARGET: &str = "AWSPriceListService.GetProducts";

pub fn is_asked(headers: &HeaderMap) -> bool {
    headers.get("x-amz-target").is_some_and(|target| target == TARGET)
}

/// The answer's status and text.
pub fn get_products(world: &World, headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
    let wrong = |what: &str| Refusal::new("InvalidParameterException", what);
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !authorization.contains("/pricing/aws4_request") {
        return Err(Refusal::new("UnrecognizedClientException", "The request is not signed for the price list."));
    }
    authorize::other(world, &iam::price_list("GetProducts", &world.region))?;
    let asked: Value = serde_json::from_slice(body).map_err(|_| wrong("The body is no JSON."))?;
    let filters = asked["Filters"].as_array().cloned().unwrap_or_default();
    for (field, value) in [("regionCode", world.region.as_str()), ("operatingSystem", "Linux"), ("tenancy", "Shared")] {
        if !filters.iter().any(|filter| filter["Field"] == field && filter["Value"] == value) {
            return Err(wrong(&format!("This stand-in has products of {field} {value} alone.")));
        }
    }
    let from = match asked["NextToken"].as_str() {
        Some(token) => token.parse::<usize>().map_err(|_| wrong("The token is unknown."))?,
        None => 0,
    };
    let size = asked["MaxResults"].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=100).contains(n));
    let size = size.ok_or_else(|| wrong("MaxResults must be between 1 and 100."))?;
    let script = world.state().script.clone();
    let products: Vec<String> = world
        .market
        .types()
        .map(|name| {
            let pool =
                Pool { lifecycle: Lifecycle::OnDemand, instance_type: name.to_owned(), zone: world.zones[0].clone() };
            let own = || format!("{:.10}", world.market.on_demand(name).unwrap_or_default());
            product(name, &script.price_of(&pool).unwrap_or_else(own))
        })
        .collect();
    let mut answer = json!({
        "FormatVersion": "aws_v1",
        "PriceList": products.iter().skip(from).take(size).collect::<Vec<_>>(),
    });
    if from + size < products.len() {
        answer["NextToken"] = json!((from + size).to_string());
    }
    Ok(answer.to_string())
}

fn product(name: &str, dollars: &str) -> String {
    let dimension =
        json!({ "unit": "Hrs", "description": format!("${dollars} per hour"), "pricePerUnit": { "USD": dollars } });
    json!({
        "product": { "productFamily": "Compute Instance", "attributes": { "instanceType": name, "operatingSystem": "Linux" } },
        "serviceCode": "AmazonEC2",
        "terms": { "OnDemand": { "A.B": { "offerTermCode": "B", "priceDimensions": { "A.B.C": dimension } } } },
    })
    .to_string()
}
