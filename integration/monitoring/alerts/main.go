// Alerts judges alerting rules as Prometheus does: it parses the rules of a PrometheusRule as Prometheus loads them, and
// tells which of them fire on series that it is given.
//
//	alerts check RULE.yaml            every error that Prometheus would refuse the rules for
//	alerts fire RULE.yaml < CASES     a JSON array of {"series": {NOTATION: VALUES}, "at": "20m"} on stdin, one JSON
//	                                  array of the alerts that fire at that time for each, a line each
//
// A series is in promtool's notation ("Unit Testing for Rules" of Prometheus's documentation): `up{job="a"}`, "0x20",
// a sample a minute. "for" is honoured: an alert fires if its expression held at each minute of that time for one set of labels,
// as each set of labels is an alert of its own.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"go.yaml.in/yaml/v3"
)

type rule struct {
	Kind string    `yaml:"kind"`
	Spec yaml.Node `yaml:"spec"`
}

type scenario struct {
	Series map[string]string `json:"series"`
	At     string            `json:"at"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "alerts:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 || args[0] != "check" && args[0] != "fire" {
		return fmt.Errorf("expected: check RULE.yaml, or fire RULE.yaml")
	}
	groups, err := load(args[1])
	if err != nil || args[0] == "check" {
		return err
	}
	var scenarios []scenario
	if err := json.NewDecoder(os.Stdin).Decode(&scenarios); err != nil {
		return fmt.Errorf("the cases: %w", err)
	}
	for _, one := range scenarios {
		firing, err := fire(groups, one)
		if err != nil {
			return err
		}
		line, err := json.Marshal(firing)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

// load reads a PrometheusRule's spec, which has the form of a file of rules.
func load(path string) (*rulefmt.RuleGroups, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var object rule
	if err := yaml.Unmarshal(text, &object); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if object.Kind != "PrometheusRule" {
		return nil, fmt.Errorf("%s: a %q is no PrometheusRule", path, object.Kind)
	}
	spec, err := yaml.Marshal(&object.Spec)
	if err != nil {
		return nil, err
	}
	groups, errs := rulefmt.Parse(spec, false, model.UTF8Validation, parser.NewParser(parser.Options{}), nil)
	if len(errs) > 0 {
		var said []string
		for _, err := range errs {
			said = append(said, err.Error())
		}
		return nil, fmt.Errorf("%s: %s", path, strings.Join(said, "; "))
	}
	return groups, nil
}

// fire tells which alerts fire at a time, by name.
func fire(groups *rulefmt.RuleGroups, one scenario) ([]string, error) {
	at, err := time.ParseDuration(one.At)
	if err != nil {
		return nil, err
	}
	text := "load 1m\n"
	for notation, values := range one.Series {
		text += fmt.Sprintf("  %s %s\n", notation, values)
	}
	storage := promqltest.LoadedStorage(failing{}, text)
	defer storage.Close()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute})
	firing := []string{}
	for _, group := range groups.Groups {
		for _, alert := range group.Rules {
			var held map[string]bool
			for moment := at - time.Duration(alert.For); moment <= at; moment += time.Minute {
				query, err := engine.NewInstantQuery(context.Background(), storage, nil, alert.Expr, time.Unix(0, 0).Add(moment))
				if err != nil {
					return nil, err
				}
				result := query.Exec(context.Background())
				vector, err := result.Vector()
				if err != nil {
					return nil, fmt.Errorf("%s: %w", alert.Alert, err)
				}
				holds := map[string]bool{}
				for _, sample := range vector {
					// Without its metric's name, as Prometheus has it.
					set := labels.NewBuilder(sample.Metric).Del(labels.MetricName).Labels().String()
					if held == nil || held[set] {
						holds[set] = true
					}
				}
				held = holds
				query.Close()
			}
			if len(held) > 0 {
				firing = append(firing, alert.Alert)
			}
		}
	}
	sort.Strings(firing)
	return firing, nil
}

// failing is what the storage of Prometheus's own tests tells its errors. Whoever asked for it closes it.
type failing struct{ testing.TB }

func (failing) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format, args...) }
func (failing) FailNow()                          { os.Exit(1) }
func (failing) Helper()                           {}
func (failing) Cleanup(func())                    {}
