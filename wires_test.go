package podsnap

import (
	"go/ast"
	"slices"
	"testing"
)

// strictReaders may refuse what they do not know: a file that a person writes, and
// objects that kubectl asks to be looked at strictly.
var strictReaders = []string{"functions/template", "controlplane/apiserver", "nodeagent/manifest"}

// TestWiresTakeMore: parts of two versions work together while a cluster is
// upgraded, so nothing that one part reads of another may refuse unknown fields.
func TestWiresTakeMore(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || slices.ContainsFunc(strictReaders, func(d string) bool { return under(s.dir, d) }) {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"DisallowUnknownFields", "UnmarshalStrict", "KnownFields", "StrictSerializer"}, sel.Sel.Name) {
				t.Errorf("%s uses %s: the next version's message has fields that this one does not know, and must be understood", s.file, sel.Sel.Name)
			}
			return true
		})
	}
}
