//! AWS's Price List: what Linux on shared machines costs on demand, in one region.
//!
//! One call of it, GetProducts, page by page. It answers for every region from three places. Sources: AWS, "Price List
//! Query API", "GetProducts".

use super::{
    endpoint::{Endpoint, EndpointError},
    json_service::JsonService,
    refusal::Refusal,
};
use crate::model::ListPrice;
use aws_credential_types::provider::SharedCredentialsProvider;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// A page of a hundred products takes a second or two.
const TIMEOUT: Duration = Duration::from_secs(20);
/// A product has some 4 KiB, and a page at most a hundred of them.
const LONGEST_ANSWER: usize = 4 << 20;
const PAGE: u32 = 100;
/// A region has some nine hundred types: this many pages are no end that will come.
const MOST_PAGES: usize = 100;
const TARGET: &str = "AWSPriceListService.GetProducts";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

pub struct PriceList {
    service: JsonService,
    /// The region whose prices are asked for.
    region: String,
}

/// Where the list is asked for, and so signed for (AWS, "AWS Price List endpoints and quotas").
fn home(region: &str) -> (&'static str, &'static str) {
    match region.split('-').next() {
        Some("cn") => ("https://api.pricing.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
        Some("eu" | "me" | "af" | "il") => ("https://api.pricing.eu-central-1.amazonaws.com", "eu-central-1"),
        Some("ap") => ("https://api.pricing.ap-south-1.amazonaws.com", "ap-south-1"),
        _ => ("https://api.pricing.us-east-1.amazonaws.com", "us-east-1"),
    }
}

impl PriceList {
    /// `endpoint`: a stand-in's; None: AWS's own.
    pub fn new(
        region: &str,
        endpoint: Option<&str>,
        credentials: SharedCredentialsProvider,
    ) -> Result<Self, EndpointError> {
        let (own, signs_for) = home(region);
        let endpoint = Endpoint::at(endpoint.unwrap_or(own), TIMEOUT, LONGEST_ANSWER)?;
        let service = JsonService {
            endpoint,
            service: "pricing",
            region: signs_for.to_owned(),
            content_type: CONTENT_TYPE,
            credentials,
        };
        Ok(Self { service, region: region.to_owned() })
    }

    /// The whole list.
    pub async fn on_demand(&self) -> Result<Vec<ListPrice>, Refusal> {
        let (mut found, mut next) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let page = self.page(next.as_deref(), PAGE).await?;
            found.extend(page.prices);
            next = page.next;
            if next.is_none() {
                return Ok(found);
            }
        }
        Err(Refusal::unanswered("the price list does not end"))
    }

    /// Whether it may be asked.
    pub async fn may_ask(&self) -> Result<(), Refusal> {
        self.page(None, 1).await.map(drop)
    }

    async fn page(&self, next: Option<&str>, size: u32) -> Result<Page, Refusal> {
        let answer = self.service.call(TARGET, &question(&self.region, next, size)).await?;
        page(&answer).map_err(Refusal::unanswered)
    }
}

/// Linux without licences, on shared machines, not within a reservation: what RunInstances is billed at.
fn question(region: &str, next: Option<&str>, size: u32) -> Value {
    let fields = [
        ("regionCode", region),
        ("operatingSystem", "Linux"),
        ("preInstalledSw", "NA"),
        ("capacitystatus", "Used"),
        ("tenancy", "Shared"),
        ("marketoption", "OnDemand"),
        ("productFamily", "Compute Instance"),
    ];
    let filters = fields.map(|(field, value)| json!({ "Type": "TERM_MATCH", "Field": field, "Value": value }));
    let mut question =
        json!({ "ServiceCode": "AmazonEC2", "FormatVersion": "aws_v1", "MaxResults": size, "Filters": filters });
    if let Some(token) = next {
        question["NextToken"] = json!(token);
    }
    question
}

#[derive(Debug, PartialEq, Eq)]
struct Page {
    prices: Vec<ListPrice>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    price_list: Vec<String>,
    #[serde(default)]
    next_token: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Item {
    product: Product,
    terms: Terms,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Product {
    attributes: Attributes,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Attributes {
    instance_type: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Terms {
    on_demand: BTreeMap<String, Term>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Term {
    price_dimensions: BTreeMap<String, Dimension>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Dimension {
    unit: String,
    price_per_unit: BTreeMap<String, String>,
}

fn page(body: &[u8]) -> Result<Page, String> {
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| format!("the price list's answer is not understood: {error}"))?;
    let prices = answer.price_list.iter().flat_map(|text| prices(text)).collect();
    Ok(Page { prices, next: answer.next_token.filter(|token| !token.is_empty()) })
}

/// A product's prices: one, as a rule. One that is not understood has none that could be read.
fn prices(text: &str) -> Vec<ListPrice> {
    let item: Item = serde_json::from_str(text).unwrap_or_default();
    let instance_type = item.product.attributes.instance_type;
    let hourly = |dimension: Dimension| {
        let dollars = dimension.price_per_unit.get("USD").filter(|_| dimension.unit == "Hrs").cloned();
        ListPrice { instance_type: instance_type.clone(), price: dollars.unwrap_or_default() }
    };
    let dimensions = item.terms.on_demand.into_values().flat_map(|term| term.price_dimensions.into_values());
    let found: Vec<ListPrice> = dimensions.map(hourly).collect();
    if found.is_empty() { vec![ListPrice { instance_type, price: String::new() }] } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(name: &str, unit: &str, dollars: &str) -> String {
        json!({
            "product": { "productFamily": "Compute Instance", "sku": "X", "attributes": { "instanceType": name, "vcpu": "2" } },
            "serviceCode": "AmazonEC2",
            "terms": { "OnDemand": { "X.J": { "offerTermCode": "J", "priceDimensions": { "X.J.6": {
                "unit": unit, "description": "…", "pricePerUnit": { "USD": dollars },
            } } } } },
        })
        .to_string()
    }

    #[test]
    fn a_page_is_products_in_text_with_a_price_an_hour_each() {
        let body = json!({
            "FormatVersion": "aws_v1", "NextToken": "n",
            "PriceList": [product("c6i.large", "Hrs", "0.0850000000"), product("m6i.large", "Quantity", "3"), "nonsense", "{}"],
        });
        let page = page(body.to_string().as_bytes()).unwrap();
        let found: Vec<_> = page.prices.iter().map(|p| (p.instance_type.as_str(), p.price.as_str())).collect();
        assert_eq!(found, [("c6i.large", "0.0850000000"), ("m6i.large", ""), ("", ""), ("", "")]);
        assert_eq!(page.next.as_deref(), Some("n"));
        assert!(super::page(b"<html>").unwrap_err().contains("not understood"));
        assert_eq!(super::page(b"{}").unwrap(), Page { prices: Vec::new(), next: None });
    }

    #[test]
    fn the_list_of_a_region_is_asked_for_where_aws_serves_it() {
        assert_eq!(home("us-west-2").1, "us-east-1");
        assert_eq!(home("eu-west-1").0, "https://api.pricing.eu-central-1.amazonaws.com");
        assert_eq!(home("ap-northeast-1").1, "ap-south-1");
        let question = question("eu-west-1", Some("t"), 100);
        assert_eq!(question["NextToken"], "t");
        assert_eq!(
            question["Filters"][0],
            json!({ "Type": "TERM_MATCH", "Field": "regionCode", "Value": "eu-west-1" })
        );
    }
}
