package custom

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"
)

// Column is one that kubectl prints besides the name.
type Column struct {
	metav1.TableColumnDefinition
	path *jsonpath.JSONPath
}

// Columns are those that the definition names, or else the age. They are the
// caller's own: a path remembers where it is while it is walked.
func (k *Kind) Columns() []Column {
	defs := k.version.AdditionalPrinterColumns
	var out []Column
	for _, d := range defs {
		p, err := parsePath(d.JSONPath)
		if err != nil {
			continue // no definition that was admitted
		}
		desc := d.Description
		if desc == "" {
			desc = "Custom resource definition column (in JSONPath format): " + d.JSONPath
		}
		out = append(out, Column{metav1.TableColumnDefinition{Name: d.Name, Type: d.Type, Format: d.Format, Description: desc, Priority: d.Priority}, p})
	}
	if len(defs) > 0 {
		return out
	}
	p, err := parsePath(".metadata.creationTimestamp")
	if err != nil {
		return nil
	}
	return []Column{{metav1.TableColumnDefinition{Name: "Age", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]}, p}}
}

func parsePath(path string) (*jsonpath.JSONPath, error) {
	p := jsonpath.New("column").AllowMissingKeys(true)
	return p, p.Parse("{" + path + "}")
}

// Cell is what stands in the column for an object, as Unstructured has it; nil is
// nothing.
func (c Column) Cell(obj map[string]any, now time.Time) any {
	found, err := c.path.FindResults(obj)
	if err != nil || len(found) == 0 || len(found[0]) == 0 {
		return nil
	}
	v := found[0][0].Interface()
	switch c.Type {
	case "integer":
		if n, ok := number(v); ok {
			return int64(n)
		}
		return nil
	case "number":
		if n, ok := number(v); ok {
			return n
		}
		return nil
	case "boolean":
		if b, ok := v.(bool); ok {
			return b
		}
		return nil
	case "date":
		return since(v, now)
	}
	if s, ok := v.(string); ok && len(found[0]) == 1 {
		return s
	}
	var b bytes.Buffer
	if err := c.path.PrintResults(&b, found[0]); err != nil {
		return nil
	}
	return b.String()
}

func since(v any, now time.Time) any {
	s, ok := v.(string)
	if !ok {
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return "<invalid>"
	}
	return duration.HumanDuration(now.Sub(t))
}

// checkPath says what is wrong with a path to one field.
func checkPath(path string) error {
	if path == "" {
		return errors.New("must not be empty")
	}
	if path[0] != '.' {
		return errors.New("must be a simple json path starting with .") //nolint:revive,staticcheck // Kubernetes' words
	}
	if _, err := parsePath(path); err != nil {
		return fmt.Errorf("is an invalid path: %w", err)
	}
	return nil
}
