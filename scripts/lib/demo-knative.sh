# shellcheck shell=bash
# The story of `scripts/demo --knative`, which reads this file: coffee as a Knative Service that goes to zero
# on a reserve, beside one that goes to plain zero.

# shellcheck disable=SC2154 # scripts/demo sets name, repo, …

# Requests go to the gateway, inside the cluster's network.
inside() { scripts/cluster exec --name "$name" -- "$@"; }
# visit SERVICE [PATH]: what it answers, and how long that took.
visit() {
  local answer
  answer=$(inside curl -sS --max-time 60 -H "Host: $1.default.knative.test" -w '(%{http_code} after %{time_total} s)' \
    "http://10.70.0.1${2:-/}") || fail "$1 did not answer: $answer"
  tr '\n' ' ' <<<"$answer"
  printf '\n'
}
# told SERVICE: shows a visit as one would make it, and makes it.
told() {
  printf '\n%s$ curl -H "Host: %s.default.knative.test" http://10.70.0.1/%s\n' "$bold" "$1" "$plain"
  visit "$1"
}
# until WHAT CHECK...: waits for a state, at most three minutes.
until_it() {
  local what=$1 deadline=$((SECONDS + 180))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "not within three minutes: $what"
    read -rt 0.2 <> <(:) || true
  done
}
replicas() { kubectl get deployment "$1-00001-deployment" -o "jsonpath={.$2}"; }
at_zero() { [[ $(replicas "$1" spec.replicas) == 0 ]]; }
standing() { [[ $(replicas "$1" status.readyReplicas) -ge 1 ]]; }
grown() { [[ $(replicas coffee status.readyReplicas) -ge 2 ]]; }
alone() { [[ $(kubectl get pods -l "pilotlight.dev/reserve-of,serving.knative.dev/revisionUID" -o name | wc -l) == 0 ]]; }
pods() {
  kubectl get pods -o 'custom-columns=POD:.metadata.name,READY:.status.conditions[?(@.type=="Ready")].status,TYPE:.metadata.annotations.pilotlight\.dev/instance-type,PURCHASE:.metadata.annotations.pilotlight\.dev/purchase,$/HOUR:.metadata.annotations.pilotlight\.dev/hourly-price,GONE BY:.metadata.deletionTimestamp'
}
show_pods() {
  printf '\n%s$ kubectl get pods (and what backs them)%s\n' "$bold" "$plain"
  pods
}

# shellcheck disable=SC2034 # scripts/demo reads it
knative_tools=(knative)
# Long enough to be seen, short enough to be waited for (Serving's own are 60 and 30 seconds).
export KNATIVE_STABLE_WINDOW=10s KNATIVE_GRACE=6s

story_knative() {
  title "Knative Serving, unmodified, and Pilotlight's gateway as its ingress"
  run "scripts/cluster status --name $name | grep knative"
  run "kubectl get nodes -L type"

  title "Coffee, which keeps a reserve at zero, and tea, which does not"
  run "kubectl apply -f manifests/examples/coffee-knative.yaml"
  run "sed 's/name: coffee/name: tea/; s/reserve: enabled/reserve: disabled/' manifests/examples/coffee-knative.yaml | kubectl apply -f -"
  run "kubectl wait ksvc coffee tea --for condition=Ready --timeout 180s"
  run "kubectl get ksvc"

  title "A visit to each"
  told coffee
  told tea
  show_pods

  title "Nobody comes: both go to zero, coffee on its reserve"
  until_it "coffee at zero" at_zero coffee
  until_it "tea at zero" at_zero tea
  show_pods
  run "kubectl get events --field-selector involvedObject.kind=Revision,involvedObject.name=coffee-00001 -o custom-columns=REASON:.reason,MESSAGE:.message --sort-by .lastTimestamp"

  title "Visiting tea at zero: the request waits for an instance and a Pod"
  told tea
  title "Visiting coffee at zero: the reserve answers at once, and an instance of full size comes"
  told coffee
  until_it "coffee's standard Pod is ready" standing coffee
  until_it "the reserve has left the endpoints" alone
  title "A moment later the full-size Pod answers, and the reserve is leaving"
  told coffee
  show_pods

  title "Many at once: it grows"
  printf '\n%s$ 200 requests, 40 at a time, of half a second each%s\n' "$bold" "$plain"
  inside bash -c 'seq 200 | xargs -P 40 -I{} curl -s -o /dev/null -w "%{http_code}\n" --max-time 60 \
    -H "Host: coffee.default.knative.test" "http://10.70.0.1/sleep?ms=500"' >"$logs/load" &
  load=$!
  until_it "coffee has grown" grown
  show_pods
  wait "$load" || fail "not all requests were sent: see $logs/load"
  load=''
  run "sort $logs/load | uniq -c"

  title "And shrinks, back to the reserve"
  until_it "coffee at zero" at_zero coffee
  show_pods

  title "The money"
  run "pilotlight status"
  printf '\nA month of such a service, by the shipped cost policy at the prices of EC2 (spot taken to be 30 %% of on demand):\n'
  run "pilotlight simulate --generate bursty --services 1 --days 30 --policy provider-config/cost-policy.yaml --assume-spot 30 2>&1"
}
