//! Code for the instructions of this machine.

/// Defines a function that is compiled twice: as it is, and for the instructions that nearly every
/// machine has but the compiler may not assume. What it calls must be inlined to come along. Both
/// compute the same, to the bit: nothing here lets the compiler change the order of sums.
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
                    #[expect(unsafe_code, reason = "instructions that were asked for")]
                    // SAFETY: this machine has all of them.
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            plain($($argument),*);
        }
    };
}
pub(super) use fast;
