//! Compiles functions for the instruction set of this machine.

/// Defines a function that is compiled twice: as it is, and for instructions that nearly every
/// machine has but the compiler may not assume. Functions that it calls must be inlined to profit.
/// Both versions compute the same, bit by bit: the compiler may not reorder floating-point sums.
macro_rules! fast {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $visible fn $name($($argument: $kind),*) {
            #[inline(always)]
            fn plain($($argument: $kind),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
                fn with_avx2($($argument: $kind),*) {
                    plain($($argument),*);
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("lzcnt")
                    && is_x86_feature_detected!("popcnt")
                {
                    #[expect(unsafe_code, reason = "the CPU features were checked")]
                    // SAFETY: this machine has all of these features.
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            plain($($argument),*);
        }
    };
}
pub(super) use fast;
