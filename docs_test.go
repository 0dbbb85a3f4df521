package podsnap

import (
	"encoding/json"
	"go/ast"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"sigs.k8s.io/yaml"
)

// What the documents name has to exist. That `faas …` lines and flags do is
// tested beside the commands, in cmd/faas.

// documents are all Markdown files, by their path, but for inputs of examples.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		if d.IsDir() {
			n := d.Name()
			if p != "." && (strings.HasPrefix(n, ".") || n == "testdata" || n == "bin" || path.Dir(p) == "functions/examples") {
				return filepath.SkipDir
			}
			return nil
		}
		if path.Ext(p) != ".md" {
			return nil
		}
		b, err := os.ReadFile(p)
		out[p] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatal("there are no documents")
	}
	return out
}

func exists(p string) bool {
	_, err := os.Stat(filepath.FromSlash(p))
	return err == nil
}

// declared are the names that a file, or the files of a folder, declare at the
// top level: functions, methods, types, variables, constants.
func declared(all []source, at string) map[string]bool {
	out := map[string]bool{}
	for _, s := range all {
		if s.file != at && s.dir != at {
			continue
		}
		for _, d := range s.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				out[d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						out[spec.Name.Name] = true
					case *ast.ValueSpec:
						for _, n := range spec.Names {
							out[n.Name] = true
						}
					}
				}
			}
		}
	}
	return out
}

var (
	link    = regexp.MustCompile(`\[([^\]]*)\]\(([^)\s]+)\)`)
	fenced  = regexp.MustCompile("(?s)```[a-z]*\n(.*?)```")
	inline  = regexp.MustCompile("`([^`\n]+)`")
	symbol  = regexp.MustCompile(`^[A-Za-z_][\w.]*$`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// A link leads somewhere. One to a Go file whose text is a name in backquotes,
// such as `functions.Apply`, leads to the file that declares it.
func TestLinks(t *testing.T) {
	docs, all := documents(t), sources(t)
	for doc, text := range docs {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			label, target := m[1], m[2]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			at := path.Join(path.Dir(doc), file)
			if file == "" {
				at = doc
			}
			if !exists(at) {
				t.Errorf("%s links to %s, which does not exist", doc, target)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(docs[at]), anchor) {
				t.Errorf("%s links to %s, but %s has no such heading (lines of code move: name a function instead)", doc, target, at)
			}
			name, ok := strings.CutPrefix(label, "`")
			name = strings.TrimSuffix(name, "`")
			if !ok || path.Ext(at) != ".go" || !symbol.MatchString(name) || strings.HasSuffix(name, ".go") {
				continue
			}
			if last := name[strings.LastIndexByte(name, '.')+1:]; !declared(all, at)[last] {
				t.Errorf("%s says that %s is in %s, which does not declare it", doc, name, at)
			}
		}
	}
}

// anchors are the headings of a document as links name them.
func anchors(text string) []string {
	var out []string
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		s := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(strings.TrimSpace(m[1])))
		out = append(out, s)
	}
	return out
}

// code is what a document sets as code: lines of its blocks, and inline pieces.
func code(text string) []string {
	var out []string
	for _, m := range fenced.FindAllStringSubmatch(text, -1) {
		out = append(out, strings.Split(m[1], "\n")...)
	}
	for _, m := range inline.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		out = append(out, m[1])
	}
	return out
}

// A path of the repository in a document's code is there.
func TestPaths(t *testing.T) {
	top, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	mine := map[string]bool{}
	for _, e := range top {
		mine[e.Name()] = e.IsDir()
	}
	for doc, text := range documents(t) {
		for _, c := range code(text) {
			first, rest, ok := strings.Cut(c, "/")
			if !ok || !mine[first] || strings.ContainsAny(c, " *…<>{}") || rest == "" {
				continue
			}
			if !exists(c) && c != "bin/faas" { // that is built
				t.Errorf("%s names %s, which does not exist", doc, c)
			}
		}
	}
}

func TestMakeTargets(t *testing.T) {
	b, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`).FindAllStringSubmatch(string(b), -1) {
		targets[m[1]] = true
	}
	texts := map[string][]string{}
	for doc, text := range documents(t) {
		texts[doc] = code(text)
	}
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	texts[".ci/run"] = strings.Split(string(ci), "\n")
	call, named := regexp.MustCompile(`(?:^|[\s;&|])make ([a-z][a-z0-9-]*)`), 0
	for doc, lines := range texts {
		for _, line := range lines {
			line, _, _ = strings.Cut(line, "#")
			for _, m := range call.FindAllStringSubmatch(line, -1) {
				named++
				if !targets[m[1]] {
					t.Errorf("%s says `make %s`: the Makefile has no such target", doc, m[1])
				}
			}
		}
	}
	if named == 0 {
		t.Error("no document says how to make anything")
	}
}

// The glossary's last column names folders, or names as folder.Name.
func TestGlossary(t *testing.T) {
	text, all := documents(t)["docs/glossary.md"], sources(t)
	rows := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.HasPrefix(cells[0], "--") || strings.TrimSpace(cells[0]) == "word" {
			continue
		}
		rows++
		for at := range strings.SplitSeq(cells[2], ",") {
			at = strings.TrimSpace(at)
			folder, name, ok := strings.Cut(at, ".")
			switch {
			case !exists(folder):
				t.Errorf("glossary: %q is in %s, which does not exist", strings.TrimSpace(cells[0]), at)
			case ok && !declared(all, folder)[name]:
				t.Errorf("glossary: %q is %s, which is not declared there", strings.TrimSpace(cells[0]), at)
			}
		}
	}
	if rows == 0 {
		t.Error("the glossary has no rows")
	}
}

// literals are all strings of the programs.
func literals(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if v, err := strconv.Unquote(l.Value); err == nil {
					out[v] = true
				}
			}
			return true
		})
	}
	return out
}

// foreign are the metrics that Prometheus' own collectors bring.
func foreign() map[string]bool {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		collectors.NewGoCollector().Describe(ch)
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}).Describe(ch)
	}()
	out := map[string]bool{"up": true}
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	for d := range ch {
		if m := name.FindStringSubmatch(d.String()); m != nil {
			out[m[1]] = true
		}
	}
	return out
}

var (
	quoted    = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	window    = regexp.MustCompile(`\[[^\]]*\]`)
	matchers  = regexp.MustCompile(`\{([^}]*)\}`)
	grouping  = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	labelName = regexp.MustCompile(`([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)`)
	word      = regexp.MustCompile(`\$?[a-zA-Z_:][\w:]*\b\s*\(?`)
)

// query takes the names of metrics and labels out of a PromQL expression.
func query(expr string) (metrics, labels []string) {
	if m := regexp.MustCompile(`^label_values\((?:(.*),)?\s*(\w+)\)$`).FindStringSubmatch(expr); m != nil {
		metrics, labels = query(m[1])
		return metrics, append(labels, m[2])
	}
	expr = window.ReplaceAllString(quoted.ReplaceAllString(expr, ""), "")
	for _, m := range matchers.FindAllStringSubmatch(expr, -1) {
		for _, l := range labelName.FindAllStringSubmatch(m[1], -1) {
			labels = append(labels, l[1])
		}
	}
	expr = matchers.ReplaceAllString(expr, "")
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		labels = append(labels, regexp.MustCompile(`\w+`).FindAllString(m[1], -1)...)
	}
	for _, w := range word.FindAllString(grouping.ReplaceAllString(expr, ""), -1) {
		switch w = strings.TrimSpace(w); {
		case strings.HasSuffix(w, "("), strings.HasPrefix(w, "$"): // a function, a variable
		case slices.Contains([]string{"and", "or", "unless", "bool", "offset", "inf", "nan"}, strings.ToLower(w)):
		default:
			metrics = append(metrics, w)
		}
	}
	return metrics, labels
}

func TestQuery(t *testing.T) {
	m, l := query(`histogram_quantile(0.99, sum by (le, op) (rate(a_seconds_bucket{x=~"$x", y!="b{c}"}[5m]))) / on(z) group_left() 2 * b_total > bool 1`)
	if want := []string{"a_seconds_bucket", "b_total"}; !slices.Equal(m, want) {
		t.Errorf("metrics %q, want %q", m, want)
	}
	if want := []string{"x", "y", "le", "op", "z"}; !slices.Equal(l, want) {
		t.Errorf("labels %q, want %q", l, want)
	}
}

// expressions are the queries of dashboards and rules, by where they are.
func expressions(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	files, err := filepath.Glob("deploy/grafana/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, "deploy/prometheus/rules.yml") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if path.Ext(f) == ".json" {
			err = json.Unmarshal(b, &v)
		} else {
			err = yaml.Unmarshal(b, &v)
		}
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		var walk func(any)
		walk = func(v any) {
			switch v := v.(type) {
			case []any:
				for _, e := range v {
					walk(e)
				}
			case map[string]any:
				for k, e := range v {
					s, ok := e.(string)
					if ok && (k == "expr" || k == "query" && strings.HasPrefix(s, "label_values(")) {
						out[f] = append(out[f], s)
					}
					walk(e)
				}
			}
		}
		walk(v)
		if len(out[f]) == 0 {
			t.Errorf("%s has no expressions", f)
		}
	}
	return out
}

// Dashboards and alerts ask for what the programs measure.
func TestMetricNames(t *testing.T) {
	have, other := literals(t), foreign()
	known := func(metric string) bool {
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(metric, suffix); ok && (have[base] || other[base]) {
				return true
			}
		}
		return false
	}
	all := expressions(t)
	for _, f := range slices.Sorted(maps.Keys(all)) {
		for _, e := range all[f] {
			metrics, labels := query(e)
			if len(metrics) == 0 {
				t.Errorf("%s: %q asks for no metric", f, e)
			}
			for _, m := range metrics {
				if !known(m) {
					t.Errorf("%s: %q asks for %s, which nothing in the code measures", f, e, m)
				}
			}
			for _, l := range labels {
				if !have[l] && !slices.Contains([]string{"le", "job", "instance"}, l) {
					t.Errorf("%s: %q asks for the label %s, which no metric of the code has", f, e, l)
				}
			}
		}
	}
}
