// Packer-template reads a Packer template as Packer does: HCL's own parser, every expression evaluated, and no argument but those that
// the plugin knows, each of its type.
//
//	packer-template TEMPLATE.pkr.hcl
//
// Packer itself and its plugins are no Go modules that can be had everywhere this is built, so what they know is written down
// here: only what our template uses. Before something is added it is to be looked up in the plugin's HCL2Spec (builder/ebs/
// builder.hcl2spec.go and common/*.hcl2spec.go of hashicorp/packer-plugin-amazon; these are of v1.8.2) or in Packer's
// documentation (blocks, provisioners, functions).
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

func attribute(name string, of cty.Type) hcldec.Spec { return &hcldec.AttrSpec{Name: name, Type: of} }

func required(name string, of cty.Type) hcldec.Spec {
	return &hcldec.AttrSpec{Name: name, Type: of, Required: true}
}

func block(name string, nested hcldec.ObjectSpec) hcldec.Spec {
	return &hcldec.BlockSpec{TypeName: name, Nested: nested}
}

func blocks(name string, nested hcldec.ObjectSpec) hcldec.Spec {
	return &hcldec.BlockListSpec{TypeName: name, Nested: nested}
}

func spec(all ...hcldec.Spec) hcldec.ObjectSpec {
	made := hcldec.ObjectSpec{}
	for n, one := range all {
		made[fmt.Sprint(n)] = one
	}
	return made
}

// The plugin's words, by the kind and type of the block.
var known = map[string]hcldec.ObjectSpec{
	"source amazon-ebs": spec(
		required("ami_name", cty.String),
		required("instance_type", cty.String),
		required("region", cty.String),
		required("ssh_username", cty.String),
		attribute("imds_support", cty.String),
		attribute("tags", cty.Map(cty.String)),
		block("source_ami_filter", spec(
			attribute("filters", cty.Map(cty.String)),
			required("owners", cty.List(cty.String)),
			attribute("most_recent", cty.Bool),
		)),
		block("metadata_options", spec(
			attribute("http_endpoint", cty.String),
			attribute("http_tokens", cty.String),
			attribute("http_put_response_hop_limit", cty.Number),
		)),
		blocks("launch_block_device_mappings", spec(
			attribute("delete_on_termination", cty.Bool),
			attribute("device_name", cty.String),
			attribute("volume_type", cty.String),
			attribute("volume_size", cty.Number),
		)),
	),
	"provisioner file": spec(
		attribute("source", cty.String),
		required("destination", cty.String),
	),
	"provisioner shell": spec(
		attribute("environment_vars", cty.List(cty.String)),
		attribute("execute_command", cty.String),
		attribute("inline", cty.List(cty.String)),
		attribute("script", cty.String),
	),
}

// Packer's own blocks.
var (
	file = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
		{Type: "packer"}, {Type: "locals"}, {Type: "build"},
		{Type: "variable", LabelNames: []string{"name"}},
		{Type: "source", LabelNames: []string{"type", "name"}},
	}}
	build = &hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: "sources", Required: true}},
		Blocks:     []hcl.BlockHeaderSchema{{Type: "provisioner", LabelNames: []string{"type"}}},
	}
	variable = &hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "type", Required: true}, {Name: "description"}, {Name: "default"}}}
	packer   = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "required_plugins"}}}
	plugin   = cty.Object(map[string]cty.Type{"source": cty.String, "version": cty.String})
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "expected: packer-template TEMPLATE.pkr.hcl")
		os.Exit(2)
	}
	parser := hclparse.NewParser()
	parsed, said := parser.ParseHCLFile(os.Args[1])
	if !said.HasErrors() {
		said = append(said, read(parsed.Body)...)
	}
	if len(said) > 0 {
		_ = hcl.NewDiagnosticTextWriter(os.Stderr, parser.Files(), 100, false).WriteDiagnostics(said)
	}
	if said.HasErrors() {
		os.Exit(1)
	}
}

func read(body hcl.Body) (said hcl.Diagnostics) {
	content, diags := body.Content(file)
	said = append(said, diags...)
	kinds := content.Blocks.ByType()
	for _, one := range kinds["packer"] {
		said = append(said, plugins(one.Body)...)
	}
	context := &hcl.EvalContext{
		Variables: map[string]cty.Value{"path": cty.ObjectVal(map[string]cty.Value{"root": cty.StringVal(".")})},
		Functions: map[string]function.Function{
			"formatdate": stdlib.FormatDateFunc,
			"join":       stdlib.JoinFunc,
			"timestamp": function.New(&function.Spec{Type: function.StaticReturnType(cty.String), Impl: func([]cty.Value, cty.Type) (cty.Value, error) {
				return cty.StringVal(time.Now().UTC().Format(time.RFC3339)), nil
			}}),
		},
	}
	variables := map[string]cty.Value{}
	for _, one := range kinds["variable"] {
		value, diags := byDefault(one.Body)
		said, variables[one.Labels[0]] = append(said, diags...), value
	}
	context.Variables["var"] = cty.ObjectVal(variables)
	locals := map[string]cty.Value{}
	for _, one := range kinds["locals"] {
		all, diags := one.Body.JustAttributes()
		said = append(said, diags...)
		for name, local := range all {
			value, diags := local.Expr.Value(context)
			said, locals[name] = append(said, diags...), value
		}
	}
	context.Variables["local"] = cty.ObjectVal(locals)
	sources := map[string]bool{}
	for _, one := range kinds["source"] {
		sources["source."+one.Labels[0]+"."+one.Labels[1]] = true
		said = append(said, decode(one, context)...)
	}
	for _, one := range kinds["build"] {
		content, diags := one.Body.Content(build)
		said = append(said, diags...)
		if named, there := content.Attributes["sources"]; there {
			said = append(said, built(named, sources)...)
		}
		for _, provisioner := range content.Blocks {
			said = append(said, decode(provisioner, context)...)
		}
	}
	return said
}

func decode(one *hcl.Block, context *hcl.EvalContext) hcl.Diagnostics {
	words, there := known[one.Type+" "+one.Labels[0]]
	if !there {
		return wrong(one.DefRange, "There is no %s %q.", one.Type, one.Labels[0])
	}
	_, said := hcldec.Decode(one.Body, words, context)
	return said
}

func plugins(body hcl.Body) hcl.Diagnostics {
	content, said := body.Content(packer)
	for _, one := range content.Blocks {
		all, diags := one.Body.JustAttributes()
		said = append(said, diags...)
		for _, named := range all {
			value, diags := named.Expr.Value(nil)
			said = append(said, diags...)
			if !diags.HasErrors() && !value.Type().Equals(plugin) {
				said = append(said, wrong(named.Range, "A plugin has a source and a version.")...)
			}
		}
	}
	return said
}

func byDefault(body hcl.Body) (cty.Value, hcl.Diagnostics) {
	content, said := body.Content(variable)
	written, there := content.Attributes["type"]
	if !there {
		return cty.DynamicVal, said
	}
	of, diags := typeexpr.TypeConstraint(written.Expr)
	said = append(said, diags...)
	value := hcldec.ObjectSpec{"default": &hcldec.AttrSpec{Name: "default", Type: of}}
	decoded, _, diags := hcldec.PartialDecode(body, value, nil)
	said = append(said, diags...)
	if said.HasErrors() {
		return cty.DynamicVal, said
	}
	made := decoded.GetAttr("default")
	if made.IsNull() {
		made = cty.UnknownVal(of)
	}
	return made, said
}

func built(named *hcl.Attribute, sources map[string]bool) hcl.Diagnostics {
	value, said := named.Expr.Value(nil)
	if said.HasErrors() || !value.CanIterateElements() {
		return append(said, wrong(named.Range, "Sources are a list of names.")...)
	}
	for it := value.ElementIterator(); it.Next(); {
		_, name := it.Element()
		if name.Type() != cty.String || !sources[name.AsString()] {
			said = append(said, wrong(named.Range, "There is no source of this name.")...)
		}
	}
	return said
}

func wrong(at hcl.Range, text string, values ...any) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: fmt.Sprintf(text, values...), Subject: &at}}
}
