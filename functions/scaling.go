package functions

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a function's scaling is when its labels do not say.
const (
	DefaultMinReplicas = 1
	DefaultMaxReplicas = 20
	DefaultZeroAfter   = 15 * time.Minute
	DefaultTarget      = 50
	DefaultProportion  = 0.9
	DefaultFactor      = 20
	maxDownWindow      = 5 * time.Minute
	maxReplicas        = 10000
)

// The types of scaling. ScaleClassic is that of a function without a type and
// without a target: more than 5 requests a second for 5 s add Factor percent of
// Max replicas, and so on up to Max; calm leads back to Min.
const (
	ScaleClassic  = ""
	ScaleRPS      = "rps"      // Target is requests a second per replica
	ScaleCapacity = "capacity" // Target is requests in flight per replica
	ScaleCPU      = "cpu"      // Target is milli-CPU per replica
	ScaleQueue    = "queue"    // Target is pending asynchronous calls per replica
)

// Scale is how a function scales; docs/scaling.md says it to users. Replicas
// wanted are ceil(load / (target × Proportion)) for the load that Type names
// and for each of Also, and the largest counts, kept inside Min..Max.
type Scale struct {
	Min, Max   int
	Zero       bool          // to no replica at all, after ZeroAfter without a request
	ZeroAfter  time.Duration //
	ZeroGiven  bool          // ZeroAfter is the user's. Otherwise it is what a cold start is worth, and a better time is learned
	DownWindow time.Duration // down to the highest recommendation of so long; 0 is the autoscaler's own
	Type       string        // one of the Scale… constants
	Target     float64
	Proportion float64
	Factor     int     // percent of Max that ScaleClassic adds each time; 0 switches it off
	Also       Targets // besides Type's
}

// Targets are loads of one replica, each in the unit of its Scale… constant; 0
// is no target.
type Targets struct {
	RPS, Capacity, CPU, Queue float64
}

// Of is the target of a type of scaling, Type's own or one of Also; 0 when
// there is none.
func (s Scale) Of(kind string) float64 {
	if kind == s.Type && kind != ScaleClassic {
		return s.Target
	}
	switch kind {
	case ScaleRPS:
		return s.Also.RPS
	case ScaleCapacity:
		return s.Also.Capacity
	case ScaleCPU:
		return s.Also.CPU
	case ScaleQueue:
		return s.Also.Queue
	}
	return 0
}

// Fixed reports whether load does not change the number of replicas.
func (s Scale) Fixed() bool { return s.Min == s.Max }

// Scaling reads the labels com.openfaas.scale.*. A value that is not valid
// counts as absent: ValidateScaling reports it.
func Scaling(labels map[string]string) Scale {
	s, _ := readScaling(labels, field.NewPath("labels"))
	return s
}

// ValidateScaling lists what is wrong with the labels com.openfaas.scale.*.
func ValidateScaling(labels map[string]string, at *field.Path) field.ErrorList {
	_, errs := readScaling(labels, at)
	return errs
}

func readScaling(labels map[string]string, at *field.Path) (Scale, field.ErrorList) {
	r := scaleReader{labels: labels, at: at}
	s := Scale{
		Min:        r.count("min", DefaultMinReplicas, 0, maxReplicas),
		Max:        r.count("max", DefaultMaxReplicas, 1, maxReplicas),
		Zero:       r.flag("zero"),
		ZeroAfter:  r.duration("zero-duration", DefaultZeroAfter, time.Second, math.MaxInt64),
		DownWindow: r.duration("down.window", 0, 0, maxDownWindow),
		Type:       r.kind(),
		Target:     r.number("target", DefaultTarget, math.MaxInt32),
		Proportion: r.number("target-proportion", DefaultProportion, 1),
		Factor:     r.count("factor", DefaultFactor, 0, 100),
		Also: Targets{
			RPS: r.number("target.rps", 0, math.MaxInt32), Capacity: r.number("target.capacity", 0, math.MaxInt32),
			CPU: r.number("target.cpu", 0, math.MaxInt32), Queue: r.number("target.queue", 0, math.MaxInt32),
		},
	}
	if s.ZeroGiven = r.valid("zero-duration"); !s.ZeroGiven {
		s.ZeroAfter = r.duration("zero-worth", DefaultZeroAfter, time.Second, math.MaxInt64)
	} else if labels[LabelScalePrefix+"zero-worth"] != "" {
		r.fail("zero-worth", "must not be there beside "+LabelScalePrefix+"zero-duration: that is not learned")
	}
	if s.Type == ScaleClassic && labels[LabelScalePrefix+"target"] != "" {
		s.Type = ScaleRPS
	}
	if s.Type == ScaleClassic {
		// One that says what it wants does not want the classic rule too.
		for _, kind := range []string{ScaleRPS, ScaleCapacity, ScaleCPU, ScaleQueue} {
			if t := s.Of(kind); t > 0 {
				s.Type, s.Target = kind, t
				break
			}
		}
	}
	if s.Min > s.Max {
		if labels[LabelScalePrefix+"max"] != "" {
			r.fail("min", fmt.Sprintf("must not be more than %smax (%d)", LabelScalePrefix, s.Max))
		}
		s.Max = s.Min
	}
	r.unknown()
	return s, r.errs
}

// scaleReader reads one label each, and notes what is wrong.
type scaleReader struct {
	labels map[string]string
	at     *field.Path
	errs   field.ErrorList
}

var scaleNames = []string{"min", "max", "zero", "zero-duration", "down.window", "type", "target", "target-proportion", "factor", "target.rps", "target.capacity", "target.cpu", "target.queue", "zero-worth"}

func (r *scaleReader) fail(name, allowed string) {
	key := LabelScalePrefix + name
	r.errs = append(r.errs, field.Invalid(r.at.Key(key), r.labels[key], allowed))
}

// valid reports whether a label that was read is there and without fault.
func (r *scaleReader) valid(name string) bool {
	at := r.at.Key(LabelScalePrefix + name).String()
	return r.labels[LabelScalePrefix+name] != "" && !slices.ContainsFunc(r.errs, func(e *field.Error) bool { return e.Field == at })
}

func (r *scaleReader) count(name string, otherwise, low, high int) int {
	v := r.labels[LabelScalePrefix+name]
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		r.fail(name, fmt.Sprintf("must be a whole number from %d to %d", low, high))
		return otherwise
	}
	return n
}

func (r *scaleReader) number(name string, otherwise, high float64) float64 {
	v := r.labels[LabelScalePrefix+name]
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsNaN(n) || n <= 0 || n > high {
		r.fail(name, fmt.Sprintf("must be a number above 0 and up to %v", high))
		return otherwise
	}
	return n
}

func (r *scaleReader) flag(name string) bool {
	v := r.labels[LabelScalePrefix+name]
	if v == "" {
		return false
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.fail(name, "must be true or false")
	}
	return b
}

func (r *scaleReader) duration(name string, otherwise, low, high time.Duration) time.Duration {
	v := r.labels[LabelScalePrefix+name]
	if v == "" {
		return otherwise
	}
	d, err := ParseDuration(v)
	if err != nil || d < low || d > high {
		allowed := fmt.Sprintf("must be a duration of at least %v, such as 90s or 15m", low)
		if high != math.MaxInt64 {
			allowed = fmt.Sprintf("must be a duration from %v to %v, such as 90s", low, high)
		}
		r.fail(name, allowed)
		return otherwise
	}
	return d
}

func (r *scaleReader) kind() string {
	v := r.labels[LabelScalePrefix+"type"]
	kinds := []string{ScaleRPS, ScaleCapacity, ScaleCPU, ScaleQueue}
	if v != "" && !slices.Contains(kinds, v) {
		r.fail("type", "must be one of "+strings.Join(kinds, ", "))
		return ScaleClassic
	}
	return v
}

// unknown finds names that nobody reads: nearly always a typing error, and one
// that would stay silent.
func (r *scaleReader) unknown() {
	for key := range r.labels {
		name, ok := strings.CutPrefix(key, LabelScalePrefix)
		if ok && !slices.Contains(scaleNames, name) {
			r.errs = append(r.errs, field.Invalid(r.at, key, "is no scaling label: known are "+LabelScalePrefix+"{"+strings.Join(scaleNames, ",")+"}"))
		}
	}
	slices.SortFunc(r.errs, func(a, b *field.Error) int { return strings.Compare(a.Error(), b.Error()) })
}
