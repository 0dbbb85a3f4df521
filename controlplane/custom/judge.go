package custom

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// judge lists what is wrong with a value, in the words of Kubernetes. path is nil
// for the object itself.
func (n *node) judge(v any, path *field.Path) field.ErrorList {
	if v == nil {
		if n.of.Nullable || n.of.Type == "" && !n.intOr {
			return nil
		}
		return field.ErrorList{n.wrongType("null", path)}
	}
	if !n.typed(v) {
		return field.ErrorList{n.wrongType(typeOf(v), path)}
	}
	errs := n.judgeEnum(v, path)
	switch v := v.(type) {
	case map[string]any:
		errs = append(errs, n.judgeMap(v, path)...)
	case []any:
		errs = append(errs, n.judgeList(v, path)...)
	case string:
		errs = append(errs, n.judgeString(v, path)...)
	case int64:
		errs = append(errs, n.judgeNumber(float64(v), v, path)...)
	case float64:
		errs = append(errs, n.judgeNumber(v, v, path)...)
	}
	return append(errs, n.judgeLogic(v, path)...)
}

// in is what a path is called in a sentence.
func in(path *field.Path) string {
	if path == nil {
		return "<nil>"
	}
	return path.String()
}

// body begins what is said of a value.
func body(path *field.Path) string {
	if path == nil {
		return "the object"
	}
	return path.String() + " in body"
}

func (n *node) wrongType(got string, path *field.Path) *field.Error {
	want := n.of.Type
	if n.intOr {
		want = "integer,string"
	}
	return field.TypeInvalid(path, got, fmt.Sprintf("%s must be of type %s: %q", body(path), want, got))
}

func typeOf(v any) string {
	switch v.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	case int64:
		return "integer"
	case float64:
		return "number"
	}
	return "null"
}

func (n *node) typed(v any) bool {
	got := typeOf(v)
	whole := got == "integer"
	if f, ok := v.(float64); ok {
		whole = f == math.Trunc(f)
	}
	switch {
	case n.intOr:
		return whole || got == "string"
	case n.of.Type == "integer":
		return whole
	case n.of.Type == "number":
		return got == "integer" || got == "number"
	}
	return n.of.Type == "" || n.of.Type == got
}

func (n *node) judgeEnum(v any, path *field.Path) field.ErrorList {
	if len(n.enum) == 0 || slices.ContainsFunc(n.enum, func(e any) bool { return equal(e, v) }) {
		return nil
	}
	allowed := make([]string, len(n.enum))
	for i, e := range n.enum {
		allowed[i] = fmt.Sprint(e)
	}
	return field.ErrorList{field.NotSupported(path, v, allowed)}
}

// equal compares two values; 1 and 1.0 are the same.
func equal(a, b any) bool {
	x, okX := number(a)
	y, okY := number(b)
	if okX && okY {
		return x == y
	}
	return reflect.DeepEqual(a, b)
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func (n *node) judgeMap(m map[string]any, path *field.Path) (errs field.ErrorList) {
	for _, name := range n.of.Required {
		if _, ok := m[name]; !ok {
			errs = append(errs, field.Required(child(path, name), ""))
		}
	}
	if least := n.of.MinProperties; least != nil && int64(len(m)) < *least {
		errs = append(errs, field.Invalid(path, len(m), fmt.Sprintf("%s should have at least %d properties", body(path), *least)))
	}
	if most := n.of.MaxProperties; most != nil && int64(len(m)) > *most {
		errs = append(errs, field.TooMany(path, len(m), int(*most)))
	}
	if n.embedded {
		errs = append(errs, judgeEmbedded(m, path)...)
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if c := n.props[k]; c != nil {
			errs = append(errs, c.judge(m[k], child(path, k))...)
		} else if n.additional != nil {
			errs = append(errs, n.additional.judge(m[k], path.Key(k))...)
		}
	}
	return errs
}

func child(path *field.Path, name string) *field.Path {
	if path == nil {
		return field.NewPath(name)
	}
	return path.Child(name)
}

// judgeEmbedded holds a whole object to what every object has.
func judgeEmbedded(m map[string]any, path *field.Path) (errs field.ErrorList) {
	for _, name := range []string{"apiVersion", "kind"} {
		switch s, ok := m[name].(string); {
		case m[name] == nil || ok && s == "":
			errs = append(errs, field.Required(child(path, name), "must not be empty"))
		case !ok:
			errs = append(errs, field.TypeInvalid(child(path, name), typeOf(m[name]), "must be of type string"))
		}
	}
	if meta := m["metadata"]; meta != nil {
		if _, ok := meta.(map[string]any); !ok {
			errs = append(errs, field.TypeInvalid(child(path, "metadata"), typeOf(meta), "must be of type object"))
		}
	}
	return errs
}

func (n *node) judgeList(l []any, path *field.Path) (errs field.ErrorList) {
	if least := n.of.MinItems; least != nil && int64(len(l)) < *least {
		errs = append(errs, field.Invalid(path, len(l), fmt.Sprintf("%s should have at least %d items", body(path), *least)))
	}
	if most := n.of.MaxItems; most != nil && int64(len(l)) > *most {
		errs = append(errs, field.TooMany(path, len(l), int(*most)))
	}
	if n.items != nil {
		for i, v := range l {
			errs = append(errs, n.items.judge(v, path.Index(i))...)
		}
	}
	return append(errs, n.judgeUnique(l, path)...)
}

// judgeUnique finds elements that are there twice in what is a set or a map.
func (n *node) judgeUnique(l []any, path *field.Path) (errs field.ErrorList) {
	if n.of.XListType == nil || *n.of.XListType == "atomic" {
		return nil
	}
	seen := map[string]bool{}
	for i, v := range l {
		key := n.keyOf(v)
		text := fmt.Sprintf("%#v", key)
		if seen[text] {
			errs = append(errs, field.Duplicate(path.Index(i), key))
		}
		seen[text] = true
	}
	return errs
}

func (n *node) keyOf(v any) any {
	m, ok := v.(map[string]any)
	if !ok || *n.of.XListType == "set" {
		return v
	}
	key := make(map[string]any, len(n.of.XListMapKeys))
	for _, k := range n.of.XListMapKeys {
		key[k] = m[k]
	}
	return key
}

func (n *node) judgeString(s string, path *field.Path) (errs field.ErrorList) {
	length := int64(utf8.RuneCountInString(s))
	if least := n.of.MinLength; least != nil && length < *least {
		errs = append(errs, field.Invalid(path, s, fmt.Sprintf("%s should be at least %d chars long", body(path), *least)))
	}
	if most := n.of.MaxLength; most != nil && length > *most {
		errs = append(errs, field.TooLong(path, s, int(*most)))
	}
	if n.pattern != nil && !n.pattern.MatchString(s) {
		errs = append(errs, field.Invalid(path, s, fmt.Sprintf("%s should match '%s'", body(path), n.of.Pattern)))
	}
	if f := formats[strings.ReplaceAll(n.of.Format, "-", "")]; f != nil && !f(s) {
		errs = append(errs, field.Invalid(path, s, fmt.Sprintf("%s must be of type %s: %q", body(path), n.of.Format, s)))
	}
	return errs
}

func (n *node) judgeNumber(f float64, v any, path *field.Path) (errs field.ErrorList) {
	wrong := func(how string, than float64) {
		errs = append(errs, field.Invalid(path, v, fmt.Sprintf("%s should be %s %s", body(path), how, strconv.FormatFloat(than, 'f', -1, 64))))
	}
	s := n.of
	switch {
	case s.Minimum == nil:
	case s.ExclusiveMinimum && f <= *s.Minimum:
		wrong("greater than", *s.Minimum)
	case f < *s.Minimum:
		wrong("greater than or equal to", *s.Minimum)
	}
	switch {
	case s.Maximum == nil:
	case s.ExclusiveMaximum && f >= *s.Maximum:
		wrong("less than", *s.Maximum)
	case f > *s.Maximum:
		wrong("less than or equal to", *s.Maximum)
	}
	if m := s.MultipleOf; m != nil && *m > 0 {
		if q := f / *m; q != math.Trunc(q) {
			wrong("a multiple of", *m)
		}
	}
	if s.Format == "int32" && (f < math.MinInt32 || f > math.MaxInt32) {
		errs = append(errs, field.Invalid(path, v, fmt.Sprintf("%s must be of type int32: %q", body(path), fmt.Sprint(v))))
	}
	return errs
}

// judgeLogic asks the schemas that are combined. What is wrong with each of them
// is said where it is clear which one was meant.
func (n *node) judgeLogic(v any, path *field.Path) (errs field.ErrorList) {
	fits := func(all []*node) (count int, first field.ErrorList) {
		for i, c := range all {
			e := c.judge(v, path)
			if len(e) == 0 {
				count++
			} else if i == 0 {
				first = e
			}
		}
		return count, first
	}
	wrong := func(what string) {
		errs = append(errs, field.Invalid(path, short(v), fmt.Sprintf("%q %s", in(path), what)))
	}
	for _, c := range n.allOf {
		errs = append(errs, c.judge(v, path)...)
	}
	if len(errs) > 0 {
		wrong("must validate all the schemas (allOf)")
	}
	if len(n.anyOf) > 0 {
		if count, first := fits(n.anyOf); count == 0 {
			errs = append(errs, first...)
			wrong("must validate at least one schema (anyOf)")
		}
	}
	if len(n.oneOf) > 0 {
		switch count, first := fits(n.oneOf); {
		case count == 0:
			errs = append(errs, first...)
			wrong("must validate one and only one schema (oneOf). Found none valid")
		case count > 1:
			wrong("must validate one and only one schema (oneOf). Found " + strconv.Itoa(count) + " valid alternatives")
		}
	}
	if n.not != nil && len(n.not.judge(v, path)) == 0 {
		wrong("must not validate the schema (not)")
	}
	return errs
}

// short is a value as an error shows it: of objects and lists only what they are.
func short(v any) any {
	switch v.(type) {
	case map[string]any, []any:
		return typeOf(v)
	}
	return v
}
