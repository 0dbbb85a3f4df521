package custom

import (
	"fmt"
	"regexp"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// node is a schema that is ready for use: its patterns are compiled, its values
// read. What it says of the shape counts for what is kept and filled in, the rest
// for what is valid.
type node struct {
	of *apiextensionsv1.JSONSchemaProps

	props      map[string]*node
	additional *node // of values under other names; nil when there may be none
	items      *node

	preserve bool // unknown fields are kept
	embedded bool // a whole object is here, with apiVersion, kind and metadata
	intOr    bool // a whole number or a string
	fallback any  // what is filled in; nil is nothing
	fills    bool // this or something below has a fallback

	pattern             *regexp.Regexp
	enum                []any
	allOf, anyOf, oneOf []*node
	not                 *node
}

// compile makes a node of a schema that ValidateDefinition has found no fault with.
// Of others it says the first one.
func compile(s *apiextensionsv1.JSONSchemaProps) (*node, error) {
	n := &node{
		of: s, embedded: s.XEmbeddedResource, intOr: s.XIntOrString,
		preserve: s.XPreserveUnknownFields != nil && *s.XPreserveUnknownFields,
	}
	var err error
	if s.Pattern != "" {
		if n.pattern, err = regexp.Compile(s.Pattern); err != nil {
			return nil, fmt.Errorf("pattern: %w", err)
		}
	}
	if n.fallback, err = valueOf(s.Default); err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	for i := range s.Enum {
		v, err := valueOf(&s.Enum[i])
		if err != nil {
			return nil, fmt.Errorf("enum: %w", err)
		}
		n.enum = append(n.enum, v)
	}
	if err := n.compileShape(s); err != nil {
		return nil, err
	}
	return n, n.compileLogic(s)
}

func (n *node) compileShape(s *apiextensionsv1.JSONSchemaProps) (err error) {
	n.fills = n.fallback != nil
	below := func(c *node) { n.fills = n.fills || c.fills }
	if len(s.Properties) > 0 {
		n.props = make(map[string]*node, len(s.Properties))
	}
	for name, p := range s.Properties {
		c, err := compile(&p)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n.props[name] = c
		below(c)
	}
	if a := s.AdditionalProperties; a != nil && (a.Schema != nil || a.Allows) {
		of := a.Schema
		if of == nil {
			of = &apiextensionsv1.JSONSchemaProps{XPreserveUnknownFields: new(true)}
		}
		if n.additional, err = compile(of); err != nil {
			return err
		}
		below(n.additional)
	}
	if s.Items != nil && s.Items.Schema != nil {
		if n.items, err = compile(s.Items.Schema); err != nil {
			return err
		}
		below(n.items)
	}
	return nil
}

func (n *node) compileLogic(s *apiextensionsv1.JSONSchemaProps) error {
	for _, l := range []struct {
		from []apiextensionsv1.JSONSchemaProps
		to   *[]*node
	}{{s.AllOf, &n.allOf}, {s.AnyOf, &n.anyOf}, {s.OneOf, &n.oneOf}} {
		for i := range l.from {
			c, err := compile(&l.from[i])
			if err != nil {
				return err
			}
			*l.to = append(*l.to, c)
		}
	}
	if s.Not == nil {
		return nil
	}
	var err error
	n.not, err = compile(s.Not)
	return err
}

func valueOf(j *apiextensionsv1.JSON) (any, error) {
	if j == nil || len(j.Raw) == 0 {
		return nil, nil
	}
	var v any
	err := utiljson.Unmarshal(j.Raw, &v)
	return v, err
}

// at is where in an object something is, as errors name it.
func at(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// prune takes out of v what the schema does not know, and answers with the paths of
// that.
func (n *node) prune(v any, path string) (unknown []string) {
	switch v := v.(type) {
	case map[string]any:
		for k, val := range v {
			switch c := n.props[k]; {
			case n.embedded && (k == "apiVersion" || k == "kind" || k == "metadata"):
			case c != nil:
				unknown = append(unknown, c.prune(val, at(path, k))...)
			case n.additional != nil:
				unknown = append(unknown, n.additional.prune(val, at(path, k))...)
			case !n.preserve:
				delete(v, k)
				unknown = append(unknown, at(path, k))
			}
		}
	case []any:
		for i, val := range v {
			if n.items != nil {
				unknown = append(unknown, n.items.prune(val, fmt.Sprintf("%s[%d]", path, i))...)
			}
		}
	}
	return unknown
}

// fill puts defaults where nothing is said. A null counts as nothing where null is
// no value.
func (n *node) fill(v any) {
	if !n.fills {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for k, c := range n.props {
			val, ok := v[k]
			if (!ok || val == nil && !c.of.Nullable) && c.fallback != nil {
				val, ok = runtime.DeepCopyJSONValue(c.fallback), true
				v[k] = val
			}
			if ok {
				c.fill(val)
			}
		}
		if n.additional == nil {
			return
		}
		for k, val := range v {
			if n.props[k] == nil {
				n.additional.fill(val)
			}
		}
	case []any:
		for _, val := range v {
			if n.items != nil {
				n.items.fill(val)
			}
		}
	}
}
