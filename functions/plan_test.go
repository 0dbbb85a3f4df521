package functions

import (
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"sigs.k8s.io/yaml"
)

// TestPlan runs the scripts in testdata/plan: a Function manifest in, the
// planned objects or the faults of validation out.
func TestPlan(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		t.Helper()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			f := &api.Function{}
			if err := yaml.UnmarshalStrict([]byte(d.Input), f); err != nil {
				d.Fatalf(t, "%v", err)
			}
			Default(f)
			if errs := Validate(f); len(errs) > 0 {
				out := ""
				for _, e := range errs {
					out += e.Error() + "\n"
				}
				return out
			}
			dep, svc := Plan(f)
			again, _ := Plan(f.DeepCopy())
			if diff := cmp.Diff(dep, again); diff != "" {
				t.Errorf("two plans of one function differ:\n%s", diff)
			}
			var part any
			switch d.Cmd {
			case "valid":
				return "ok\n"
			case "deployment":
				part = dep
			case "service":
				part = svc
			case "template":
				part = dep.Spec.Template
			case "pod":
				part = dep.Spec.Template.Spec
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			out, err := yaml.Marshal(part)
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		})
	})
}
