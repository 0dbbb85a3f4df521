package custom_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
)

func definition(t *testing.T, text string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(text), crd); err != nil {
		t.Fatal(err)
	}
	custom.DefaultDefinition(crd)
	return crd
}

func databases(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("testdata/databases.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// widgets is a small definition with a schema of the field spec.
func widgets(spec string) string {
	return `
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {kind: Widget, plural: widgets}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: ` + spec + `}}}}]
`
}

// TestInvalidDefinitions: each fault is told where it is, and nothing else is.
func TestInvalidDefinitions(t *testing.T) {
	if errs := custom.ValidateDefinition(definition(t, databases(t))); len(errs) > 0 {
		t.Fatalf("a sound definition has faults: %v", errs)
	}
	sound := widgets("{type: object}")
	for _, c := range []struct{ was, is, says string }{
		{"name: widgets.example.com", "name: widget.example.com", `metadata.name: Invalid value: "widget.example.com": must be spec.names.plural+"."+spec.group`},
		{"scope: Cluster", "scope: Global", `spec.scope: Unsupported value: "Global"`},
		{"kind: Widget,", "kind: Wid_get, listKind: L,", "spec.names.kind: Invalid value"},
		{"kind: Widget,", "kind: Widget, listKind: Widget,", "kind and listKind may not be the same"},
		{"plural: widgets", "plural: widgets, shortNames: [A.b]", "spec.names.shortNames[0]: Invalid value"},
		{"storage: true", "storage: false", "must have exactly one version marked as storage version"},
		{"name: v1,", "name: 1,", "spec.versions[0].name"},
		{"storage: true,", "storage: true, deprecationWarning: x,", "can only be set for deprecated versions"},
		{"served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object}}}}", "served: true, storage: true", "schemas are required"},
		{"scope: Cluster", "scope: Cluster\n  preserveUnknownFields: true", "spec.preserveUnknownFields: Invalid value"},
		{"scope: Cluster", "scope: Cluster\n  conversion: {strategy: Webhook}", `spec.conversion.strategy: Unsupported value: "Webhook"`},
		{"storage: true,", "storage: true, subresources: {scale: {specReplicasPath: .status.n, statusReplicasPath: .status.n}},", "should be a json path under .spec"},
		{"storage: true,", "storage: true, additionalPrinterColumns: [{name: A, type: text, jsonPath: .spec}],", `Unsupported value: "text"`},
		{"storage: true,", "storage: true, additionalPrinterColumns: [{name: A, type: string, jsonPath: '.spec['}],", "is an invalid path"},
		{"storage: true,", "storage: true, selectableFields: [{jsonPath: .spec}],", "must point to a field of type string"},
		{"openAPIV3Schema: {type: object, ", "openAPIV3Schema: {", "openAPIV3Schema.type: Required value: must not be empty at the root"},
		{"{type: object}}", "{}}", "properties[spec].type: Required value: must not be empty for specified object fields"},
		{"{type: object}}", "{type: objekt}}", `Unsupported value: "objekt"`},
		{"{type: object}}", "{type: array}}", "items: Required value: must be specified"},
		{"{type: object}}", "{type: array, uniqueItems: true, items: {type: string}}}", "uniqueItems cannot be set to true"},
		{"{type: object}}", "{type: string, pattern: '('}}", "must be a valid regular expression"},
		{"{type: object}}", "{type: object, additionalProperties: {type: string}, properties: {a: {type: string}}}}", "mutual exclusive"},
		{"{type: object}}", "{type: object, anyOf: [{type: string}]}}", "anyOf[0].type: Forbidden: must be empty to be structural"},
		{"{type: object}}", "{type: object, oneOf: [{properties: {a: {minLength: 1}}}]}}", "oneOf[0].properties[a]: Required value"},
		{"{type: object}}", "{type: object, x-kubernetes-preserve-unknown-fields: false}}", "must be true or undefined"},
		{"{type: object}}", "{type: integer, x-kubernetes-int-or-string: true}}", "must be empty if x-kubernetes-int-or-string is true"},
		{"{type: object}}", "{type: array, x-kubernetes-list-type: map, items: {type: object, properties: {a: {type: string}}}}}", "x-kubernetes-list-map-keys: Required value"},
		{"{type: object}}", "{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [a], items: {type: object, properties: {a: {type: string}}}}}", "must have a default or be a required property"},
		{"{type: object}}", "{type: integer, minimum: 3, default: 1}}", "default: Invalid value: 1"},
		{"{type: object}}", "{type: object, default: {b: 1}, properties: {a: {type: string}}}}", "must not have fields that the schema does not know"},
		{"{type: object}}", "{type: object}, metadata: {type: object, properties: {labels: {type: object}}}}", "must not specify anything other than name and generateName"},
	} {
		text := strings.Replace(sound, c.was, c.is, 1)
		if text == sound {
			t.Fatalf("%q is not there", c.was)
		}
		errs := custom.ValidateDefinition(definition(t, text))
		if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), c.says) {
			t.Errorf("%s: got %v, want %q", c.is, errs, c.says)
		}
	}
	for group, says := range map[string]string{
		"apps": "are built in", "openfaas.com": "are built in", "nodots": "at least one dot", "x.k8s.io": "must have approval annotation", "": "Required value",
	} {
		crd := definition(t, sound)
		crd.Spec.Group, crd.Name = group, "widgets."+group
		if errs := custom.ValidateDefinition(crd); len(errs) != 1 || !strings.Contains(errs[0].Error(), says) {
			t.Errorf("group %q: got %v, want %q", group, errs, says)
		}
	}
}

func TestDefinitionUpdates(t *testing.T) {
	old := definition(t, databases(t))
	old.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	for says, change := range map[string]func(*apiextensionsv1.CustomResourceDefinition){
		"spec.scope":                 func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec.Scope = "Cluster" },
		"spec.group":                 func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec.Group = "other.org" },
		"spec.names.kind":            func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec.Names.Kind = "Other" },
		"missing from spec.versions": func(c *apiextensionsv1.CustomResourceDefinition) { c.Status.StoredVersions = []string{"v0"} },
	} {
		next := old.DeepCopy()
		change(next)
		if errs := custom.ValidateDefinitionUpdate(next, old); len(errs) != 1 || !strings.Contains(errs[0].Error(), says) {
			t.Errorf("got %v, want %q", errs, says)
		}
	}
}

// kind establishes a definition.
func kind(t *testing.T, text string) *api.Resource {
	t.Helper()
	crd := definition(t, text)
	crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	var k custom.Kinds
	if k.Define(crd.Name, crd) == nil {
		t.Fatal("it makes no kind")
	}
	return k.Set().Served[0]
}

func object(t *testing.T, r *api.Resource, spec string) *api.CustomObject {
	t.Helper()
	obj := api.NewCustom(r)
	obj.Name = "x"
	if err := yaml.Unmarshal([]byte(`{"spec":`+toJSON(t, spec)+`}`), obj); err != nil {
		t.Fatal(err)
	}
	obj.Name = "x"
	obj.SetGroupVersionKind(r.GVK())
	return obj
}

func toJSON(t *testing.T, text string) string {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestInvalidObjects: the words are those of Kubernetes.
func TestInvalidObjects(t *testing.T) {
	r := kind(t, databases(t))
	for spec, says := range map[string]string{
		"{}":                                            "spec.engine: Required value",
		"{engine: oracle}":                              `spec.engine: Unsupported value: "oracle": supported values: "postgres", "mysql"`,
		"{engine: mysql, replicas: 11}":                 "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
		"{engine: mysql, replicas: -1}":                 "spec.replicas in body should be greater than or equal to 0",
		"{engine: mysql, replicas: many}":               `spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"`,
		"{engine: mysql, replicas: 1.5}":                `must be of type integer: "number"`,
		"{engine: mysql, paused: 1}":                    `spec.paused in body must be of type boolean: "integer"`,
		"{engine: mysql, paused: null}":                 `must be of type boolean: "null"`,
		"{engine: mysql, version: v1}":                  `spec.version in body should match '^[0-9]+(\.[0-9]+)*$'`,
		"{engine: mysql, port: true}":                   `spec.port in body must be of type integer,string: "boolean"`,
		"{engine: mysql, storage: {size: big}}":         "spec.storage.size in body should match",
		"{engine: mysql, maintenance: {until: noon}}":   `spec.maintenance.until in body must be of type date-time: "noon"`,
		"{engine: mysql, parameters: {a: ''}}":          `spec.parameters[a]: Invalid value: "": spec.parameters[a] in body should be at least 1 chars long`,
		"{engine: mysql, users: [{name: a},{name: a}]}": `spec.users[1]: Duplicate value: {"name":"a"}`,
		"{engine: mysql, users: [{name: a},{name: b},{name: c},{name: d},{name: e},{name: f}]}": "spec.users: Too many: 6: must have at most 5 items",
		"{engine: mysql, users: [{}]}":                                            "spec.users[0].name: Required value",
		"{engine: mysql, storage: {accessModes: [ReadWriteOnce, ReadWriteOnce]}}": `spec.storage.accessModes[1]: Duplicate value: "ReadWriteOnce"`,
		"{engine: mysql, backup: {s3: {bucket: b}, volume: {}}}":                  "must validate one and only one schema (oneOf). Found 2 valid alternatives",
		"{engine: mysql, backup: {keep: 7}}":                                      "spec.backup.keep in body should be a multiple of 5",
		"{engine: mysql, backup: {keep: 0}}":                                      "spec.backup.keep in body should be greater than 0",
		"{engine: mysql, extra: [{kind: Pod}]}":                                   "spec.extra[0].apiVersion: Required value",
		"[]":                                                                      `spec in body must be of type object: "array"`,
		"{engine: mysql, storage: {className: " + strings.Repeat("x", 64) + "}}":  "spec.storage.className: Too long",
	} {
		err := r.Definition.Admit(nil, object(t, r, spec), "")
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %s", spec, err, says)
		}
	}
	for _, spec := range []string{
		"{engine: mysql}", "{engine: mysql, maintenance: null}", "{engine: mysql, port: 80}", "{engine: mysql, port: http}", "{engine: mysql, replicas: 2.0}",
		"{engine: mysql, backup: {s3: {bucket: b}}}", "{engine: mysql, backup: {}}", "{engine: mysql, extra: [{apiVersion: v1, kind: Pod, metadata: {name: p}, any: thing}]}",
		"{engine: mysql, podTemplate: {spec: {a: [1, {b: null}]}}}",
	} {
		if err := r.Definition.Admit(nil, object(t, r, spec), ""); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

// TestWhatWasStoredMayStay: a schema that has become stricter is no reason to
// refuse a change of something else.
func TestWhatWasStoredMayStay(t *testing.T) {
	r := kind(t, databases(t))
	old, next := object(t, r, "{engine: oracle}"), object(t, r, "{engine: oracle, replicas: 2}")
	if err := r.Definition.Admit(old, next, ""); err != nil {
		t.Error(err)
	}
	if err := r.Definition.Admit(old, object(t, r, "{engine: oracle, replicas: 20}"), ""); err == nil || strings.Contains(err.Error(), "oracle") {
		t.Errorf("got %v, want the new fault alone", err)
	}
}

func TestPruneAndDefault(t *testing.T) {
	r := kind(t, widgets(`{type: object, properties: {
  list: {type: array, items: {type: object, properties: {a: {type: string, default: x}}}},
  map: {type: object, additionalProperties: {type: object, properties: {a: {type: integer, default: 1}}}},
  void: {type: string, nullable: true, default: d}, nonull: {type: string, default: d},
  keep: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {in: {type: object, properties: {a: {type: string}}}}}}}`))
	obj := object(t, r, "{list: [{}, {a: y, b: 1}], map: {k: {}, l: {z: 1}}, void: null, nonull: null, keep: {any: 1, in: {a: b, c: d}}, other: 1}")
	obj.Content["top"] = "x"
	k := custom.Of(r)
	if got, want := k.Prune(obj), []string{"spec.keep.in.c", "spec.list[1].b", "spec.map.l.z", "spec.other", "top"}; !slices.Equal(got, want) {
		t.Errorf("pruned are %v, want %v", got, want)
	}
	k.Default(obj)
	b, err := yaml.Marshal(obj.Content)
	if err != nil {
		t.Fatal(err)
	}
	want := toJSON(t, "{spec: {list: [{a: x}, {a: y}], map: {k: {a: 1}, l: {a: 1}}, void: null, nonull: d, keep: {any: 1, in: {a: b}}}}")
	if got := toJSON(t, string(b)); got != want {
		t.Errorf("it has become\n%s\nwant\n%s", got, want)
	}
}

func TestRulesAreWarnedOf(t *testing.T) {
	crd := definition(t, widgets(`{type: object, properties: {a: {type: object, x-kubernetes-validations: [{rule: "self.b == 1"}]}}}`))
	if errs := custom.ValidateDefinition(crd); len(errs) > 0 {
		t.Error(errs)
	}
	if w := custom.Warnings(crd); len(w) != 1 || !strings.Contains(w[0], "not evaluated") {
		t.Errorf("the warnings are %q", w)
	}
	if w := custom.Warnings(definition(t, databases(t))); len(w) != 0 {
		t.Errorf("a definition without rules has the warnings %q", w)
	}
}

// TestKindsStay: what does not concern a kind leaves its resources as they are.
func TestKindsStay(t *testing.T) {
	var k custom.Kinds
	crd := definition(t, databases(t))
	k.Define(crd.Name, crd)
	if s := k.Set(); len(s.Served) != 0 || len(s.Stored) != 1 {
		t.Errorf("before it is established there are %v", s)
	}
	crd = crd.DeepCopy()
	crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	k.Define(crd.Name, crd)
	before := k.Set()
	if len(before.Served) != 2 || before.Served[0].Version != "v1" {
		t.Errorf("established it is %v", before.Served)
	}
	crd = crd.DeepCopy()
	crd.Labels = map[string]string{"a": "b"}
	k.Define(crd.Name, crd)
	if k.Set() != before {
		t.Error("a label has made another kind")
	}
	crd = crd.DeepCopy()
	crd.Generation++
	k.Define(crd.Name, crd)
	if k.Set().Number == before.Number || k.For(before.Served[0].GVK()) == before.Served[0] {
		t.Error("another generation is the same kind")
	}
	k.Define(crd.Name, nil)
	if s := k.Set(); len(s.Served)+len(s.Stored) != 0 || s.Number == before.Number {
		t.Errorf("after its end there are %v", s)
	}
}
