package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/fieldmanager"
)

// maxManager is the longest name of a field manager.
const maxManager = 128

// store is where writes go that nobody manages, such as a pod's place; with dry
// nothing is stored.
func (s *Server) store(dry bool) api.Objects {
	if dry {
		return &dryRun{Objects: s.cfg.Objects, admit: s.cfg.Judge}
	}
	return s.cfg.Objects
}

// writes is what the call's writes go to. The platform's own keep no record of
// who has set what: see own.
func (s *Server) writes(c *call, dry bool) (api.Objects, error) {
	if own(c) {
		return s.store(dry), nil
	}
	return s.managed(c, dry)
}

// managed is where the writes of the manager go that the call names.
func (s *Server) managed(c *call, dry bool) (*fieldmanager.Objects, error) {
	name, err := managerOf(c.r)
	if err != nil {
		return nil, err
	}
	m := &fieldmanager.Objects{Objects: s.store(dry), Manager: name, Default: admission.Default}
	if c.subresource == fieldmanager.Scale {
		m.Part = fieldmanager.Scale
	}
	return m, nil
}

// own tells whether the platform itself writes: nodes the status of their pods,
// many times a second, and what servers and commands hand on. To track them
// would cost more than the writes.
func own(c *call) bool {
	return access.Of(c.ctx()).Node() != "" || c.r.UserAgent() == remote.UserAgent
}

// managerOf is the manager that a request names, or else the program that sent it.
func managerOf(r *http.Request) (string, error) {
	name := r.URL.Query().Get("fieldManager")
	if name == "" {
		program, _, _ := strings.Cut(r.UserAgent(), "/")
		name = strings.Map(func(c rune) rune {
			if !unicode.IsPrint(c) {
				return -1
			}
			return c
		}, program)
		if name == "" {
			name = "unknown"
		}
		return name[:min(len(name), maxManager)], nil
	}
	at := field.NewPath("fieldManager")
	switch {
	case len(name) > maxManager:
		return "", invalidOptions(field.TooLong(at, "", maxManager))
	case strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }):
		return "", invalidOptions(field.Invalid(at, name, "should only contain printable characters"))
	}
	return name, nil
}

func invalidOptions(faults ...*field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", faults)
}

// isDry reads the dryRun parameter, or that of a body.
func isDry(v []string) (bool, error) {
	if len(v) == 0 || len(v) == 1 && v[0] == "" {
		return false, nil
	}
	if slices.ContainsFunc(v, func(s string) bool { return s != metav1.DryRunAll }) {
		return false, apierrors.NewBadRequest(fmt.Sprintf("dryRun: unsupported value %s: supported values: %q", quoted(list(v)), metav1.DryRunAll))
	}
	return true, nil
}

// target is where a write that says in its query whether it is dry goes.
func (s *Server) target(c *call) (api.Objects, error) {
	dry, err := isDry(c.r.URL.Query()["dryRun"])
	if err != nil {
		return nil, err
	}
	return s.writes(c, dry)
}
